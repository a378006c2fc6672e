// Viewer of the app: shows the values that the server has computed, and sends corrected masks.
async function pixelsOf(base64, type, channels) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(new Blob([bytes], { type }), options);
  const { width, height } = bitmap, canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height), values = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < channels; c++) values[i * channels + c] = data[4 * i + c];
  }
  return { height, width, channels, data: values };
}

async function base64Of(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 30000) text += String.fromCharCode(...bytes.subarray(i, i + 30000));
  return btoa(text);
}

async function show(root, data, setTriggerValue) {
  const image = await pixelsOf(data.image, "image/jpeg", 3);
  if (!data.mask) {
    const result = { probability: data.probability, predicted: data.predicted };
    root.replaceChildren(medvisionViewer.classification(image, result, data, { name: data.name }).node);
    return;
  }
  const mask = (await pixelsOf(data.mask, "image/png", 1)).data;
  const levels = data.probability && (await pixelsOf(data.probability, "image/png", 1)).data;
  // a level is floor(256 p): its middle is the best guess of p
  const probability = levels && Float32Array.from(levels, (level) => (level + 0.5) / 256);
  const save = async (corrected) => {
    const png = await medvisionViewer.maskPng(corrected, image.height, image.width, data.class_names.length);
    setTriggerValue("corrected", await base64Of(png));
  };
  const view = medvisionViewer.segmentation(image, { mask, probability }, data, { name: data.name, onSave: save });
  root.replaceChildren(view.node);
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".mv-root");
  if (root.dataset.key === data.key) return; // the page ran again: corrections stay
  root.dataset.key = data.key;
  show(root, data, setTriggerValue).catch((error) => {
    root.dataset.key = "";
    root.textContent = `This image cannot be shown: ${error.message}`;
  });
}
