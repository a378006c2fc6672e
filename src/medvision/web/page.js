// The page: reads dropped images, runs the model and shows its results.
"use strict";
(() => {
  const { element } = medvisionViewer, model = medvisionModel;
  const byId = (id) => document.getElementById(id);
  const status = byId("status"), results = byId("results");
  const LOCAL = location.protocol === "file:"; // browsers do not fetch from there, but run scripts

  function describeModel() {
    document.title = `${model.title} – medvision`;
    byId("title").textContent = model.title;
    byId("synthetic").hidden = !model.synthetic;
    byId("facts").tBodies[0].append(...model.facts.map(([name, value]) =>
      element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value))));
    if (model.scores.length) {
      byId("measured").append(element("h2", {}, `Measured on ${model.measured_on}`),
        element("table", {}, element("tbody", {}, ...model.scores.map((score) => element("tr", {},
          element("th", { scope: "row" }, score.title),
          element("td", {}, score.value, element("br"), element("span", { class: "quiet" }, score.definition)))))));
    }
    if (model.warnings.length) {
      byId("warnings").className = "banner";
      byId("warnings").append(element("h2", {}, "Warnings from training"),
        element("ul", {}, ...model.warnings.map((warning) => element("li", {}, warning))));
    }
  }

  function runScript(source) {
    return new Promise((resolve, reject) => {
      const script = element("script", { src: source });
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${source} is missing`));
      document.head.append(script);
    });
  }

  async function bytesOf(file) {
    if (!LOCAL) {
      const answer = await fetch(file);
      if (!answer.ok) throw new Error(`${file} cannot be loaded (${answer.status})`);
      return new Uint8Array(await answer.arrayBuffer());
    }
    await runScript(`local/${file.split("/").at(-1)}.js`);
    const text = atob(medvisionLocal[file]), packed = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  let session = null;
  async function loadModel() {
    ort.env.wasm.numThreads = 1; // several need headers that a static host does not send
    ort.env.logLevel = "error";
    if (LOCAL) {
      const glue = await bytesOf("ort/ort-wasm-simd-threaded.mjs");
      ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([glue], { type: "text/javascript" })) };
      ort.env.wasm.wasmBinary = (await bytesOf("ort/ort-wasm-simd-threaded.wasm")).buffer;
    } else ort.env.wasm.wasmPaths = new URL("ort/", location.href).href;
    return ort.InferenceSession.create(await bytesOf("model.onnx"), { executionProviders: ["wasm"] });
  }

  async function predict(file) {
    const image = await medvisionPixels.read(file, model.in_channels, model.value_range);
    const size = model.image_size, input = medvisionPixels.resize(image, size);
    const tensor = new ort.Tensor("uint8", medvisionPixels.planes(input), [1, model.in_channels, size, size]);
    session ??= loadModel();
    const outputs = await (await session).run({ image: tensor }, ["logits"]);
    const logits = outputs.logits.data;
    if (!logits.every(Number.isFinite)) throw new medvisionPixels.Refused("the model has no finite result for this image");
    const result = model.per_pixel
      ? medvisionPixels.segment(logits, model, image.height, image.width)
      : medvisionPixels.classify(logits, model);
    return { image, result };
  }

  /** Add the result of a file to the page, and return the number of images predicted. */
  async function show(file) {
    const card = element("article", { class: "card" }, element("h3", {}, file.name));
    results.prepend(card);
    try {
      const { image, result } = await predict(file);
      const view = model.per_pixel ? medvisionViewer.segmentation : medvisionViewer.classification;
      card.append(view(image, result, model, { name: file.name }).node);
      return 1;
    } catch (error) {
      card.append(element("p", { class: "failed" }, `Not processed: ${error.message}.`));
      if (!(error instanceof medvisionPixels.Refused)) {
        session = null;
        console.error(error);
      }
      return 0;
    }
  }

  const nextFrame = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  let turn = Promise.resolve();
  function add(files) {
    let done = 0;
    for (const [place, file] of [...files].entries()) {
      turn = turn.then(async () => {
        const first = session === null ? "Loading the model, then predicting" : "Predicting";
        status.textContent = `${first} ${file.name} (${place + 1} of ${files.length}) …`;
        await nextFrame(); // the network occupies the page while it runs
        done += await show(file);
      });
    }
    turn = turn.then(() => {
      const failed = files.length - done;
      status.textContent = `${done} ${done === 1 ? "image" : "images"} done` + (failed ? `, ${failed} not processed.` : ".");
    });
  }

  describeModel();
  const input = byId("files"), drop = byId("drop");
  input.addEventListener("change", () => { add([...input.files]); input.value = ""; });
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) add([...event.dataTransfer.files]);
  });
  if (model.example) {
    byId("example").hidden = false;
    byId("example").addEventListener("click", () => {
      const bytes = Uint8Array.from(atob(model.example), (character) => character.charCodeAt(0));
      add([new File([bytes], "example.png", { type: "image/png" })]);
    });
  }
})();
