// Reads images, and computes the input and the result of a network, as `medvision predict` does.
"use strict";
var medvisionPixels = (() => {
  const MOST_PIXELS = 100e6, MOST_SCANS = 100, STRIP_PIXELS = 4e6;
  const ELSEWHERE = "open it with medvision predict or medvision serve";

  class Refused extends Error {}

  // Files ------------------------------------------------------------------------------------

  const PNG_SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
  const TIFF = [[0x49, 0x49, 0x2a, 0], [0x4d, 0x4d, 0, 0x2a], [0x49, 0x49, 0x2b, 0], [0x4d, 0x4d, 0, 0x2b]];
  const startsWith = (bytes, start) => start.every((value, place) => bytes[place] === value);
  const textAt = (bytes, place, length) => String.fromCharCode(...bytes.subarray(place, place + length));

  /** Read a file as {height, width, channels, data}, uint8 rows of pixels with 1 or 3 channels. */
  async function read(blob, channels, valueRange) {
    const bytes = new Uint8Array(await blob.arrayBuffer());
    if (!bytes.length) throw new Refused("the file is empty");
    if (textAt(bytes, 128, 4) === "DICM") throw new Refused(`a browser cannot read DICOM files; ${ELSEWHERE}`);
    if (TIFF.some((start) => startsWith(bytes, start))) {
      throw new Refused(`a browser cannot read TIFF files; ${ELSEWHERE}`);
    }
    let colours;
    if (startsWith(bytes, [0xff, 0xd8, 0xff])) colours = await readJpeg(bytes);
    else if (startsWith(bytes, PNG_SIGNATURE)) colours = await readPng(bytes, valueRange);
    else if (startsWith(bytes, [0x42, 0x4d])) colours = await readBmp(bytes);
    else throw new Refused("not a JPEG, PNG or BMP picture");
    return withChannels(colours, channels);
  }

  function checkSize(height, width) {
    if (!(height > 0 && width > 0)) throw new Refused("the picture is damaged");
    if (height * width > MOST_PIXELS) {
      throw new Refused(`${width} x ${height} pixels exceed the limit of ${MOST_PIXELS / 1e6} million`);
    }
  }

  /** Segments of a JPEG file up to its first scan, as {marker, start, end}. */
  function jpegSegments(bytes) {
    const found = [];
    for (let place = 2; place + 4 <= bytes.length;) {
      if (bytes[place] !== 0xff) throw new Refused("the picture is damaged");
      const marker = bytes[place + 1];
      if (marker === 0xff) { place += 1; continue; }
      const end = place + 2 + bytes[place + 2] * 256 + bytes[place + 3];
      found.push({ marker, start: place, end });
      if (marker === 0xda) return found;
      place = end;
    }
    throw new Refused("the picture is damaged");
  }

  function countPairs(bytes, second) {
    let count = 0, last = -1;
    for (let place = bytes.indexOf(0xff); place >= 0; place = bytes.indexOf(0xff, place + 1)) {
      if (bytes[place + 1] === second) { count += 1; last = place; }
    }
    return { count, last };
  }

  async function readJpeg(bytes) {
    const segments = jpegSegments(bytes), scans = countPairs(bytes, 0xda);
    if (countPairs(bytes, 0xd9).last < scans.last) throw new Refused("the picture is cut short");
    if (scans.count > MOST_SCANS) throw new Refused(`${scans.count} scans`);
    const isFrame = (m) => m >= 0xc0 && m <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(m);
    const frame = segments.find((segment) => isFrame(segment.marker));
    if (!frame) throw new Refused("the picture is damaged");
    const [precision, components] = [bytes[frame.start + 4], bytes[frame.start + 9]];
    if (precision !== 8 || ![1, 3].includes(components)) {
      throw new Refused(`a browser cannot read this kind of JPEG; ${ELSEWHERE}`);
    }
    const height = bytes[frame.start + 5] * 256 + bytes[frame.start + 6];
    const width = bytes[frame.start + 7] * 256 + bytes[frame.start + 8];
    // without colour profile and orientation, all browsers decode the same pixels
    let orientation = 1;
    const kept = [bytes.subarray(0, 2)];
    for (const { marker, start, end } of segments.slice(0, -1)) {
      if (marker === 0xe1 && textAt(bytes, start + 4, 4) === "Exif") {
        orientation = exifOrientation(bytes.subarray(start + 10, end));
      }
      if (marker < 0xe1 || marker > 0xed) kept.push(bytes.subarray(start, end));
    }
    kept.push(bytes.subarray(segments.at(-1).start));
    return upright(await decode(new Blob(kept, { type: "image/jpeg" }), height, width), orientation);
  }

  /** Orientation, 1 to 8, in a TIFF header; 1 if it has none. */
  function exifOrientation(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    try {
      const little = view.getUint16(0) === 0x4949;
      const directory = view.getUint32(4, little);
      const entries = view.getUint16(directory, little);
      for (let entry = 0; entry < entries; entry++) {
        const place = directory + 2 + 12 * entry;
        if (view.getUint16(place, little) === 274) {
          const value = view.getUint16(place + 8, little);
          return value >= 1 && value <= 8 ? value : 1;
        }
      }
    } catch (error) {
      if (!(error instanceof RangeError)) throw error; // damaged metadata of a good picture
    }
    return 1;
  }

  const NEEDED_CHUNKS = ["IHDR", "PLTE", "tRNS", "IDAT", "IEND"];

  async function readPng(bytes, valueRange) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const chunks = [];
    for (let place = 8; place + 12 <= bytes.length;) {
      const length = view.getUint32(place), end = place + 12 + length;
      if (end > bytes.length) throw new Refused("the picture is cut short");
      chunks.push({ type: textAt(bytes, place + 4, 4), start: place, content: bytes.subarray(place + 8, end - 4), end });
      place = end;
    }
    if (chunks[0]?.type !== "IHDR" || !chunks.some((chunk) => chunk.type === "IDAT")) {
      throw new Refused("the picture is damaged");
    }
    if (chunks.some((chunk) => chunk.type === "acTL" && chunk.content[3] !== 1)) {
      throw new Refused("the file contains several pictures");
    }
    const width = view.getUint32(16), height = view.getUint32(20);
    const [bits, colour, , , interlaced] = bytes.subarray(24, 29);
    checkSize(height, width);
    const exif = chunks.find((chunk) => chunk.type === "eXIf");
    const orientation = exif ? exifOrientation(exif.content) : 1;
    if (bits === 16) {
      if (interlaced || ![0, 2, 6].includes(colour)) {
        throw new Refused(`a browser cannot read this kind of 16-bit PNG; ${ELSEWHERE}`);
      }
      const deep = await inflatePng(chunks, height, width, { 0: 1, 2: 3, 6: 4 }[colour]);
      return upright(stretched(overBlack(deep), valueRange), orientation);
    }
    const kept = chunks.filter((chunk) => NEEDED_CHUNKS.includes(chunk.type));
    const parts = [bytes.subarray(0, 8), ...kept.map((chunk) => bytes.subarray(chunk.start, chunk.end))];
    return upright(await decode(new Blob(parts, { type: "image/png" }), height, width), orientation);
  }

  /** Values of a 16-bit PNG, which a browser would cut to 8 bits. */
  async function inflatePng(chunks, height, width, samples) {
    const packed = new Blob(chunks.filter((chunk) => chunk.type === "IDAT").map((chunk) => chunk.content));
    let raw;
    try {
      const stream = packed.stream().pipeThrough(new DecompressionStream("deflate"));
      raw = new Uint8Array(await new Response(stream).arrayBuffer());
    } catch {
      throw new Refused("the picture is damaged");
    }
    const step = 2 * samples, stride = step * width;
    if (raw.length < height * (stride + 1)) throw new Refused("the picture is cut short");
    const values = new Uint16Array(height * width * samples);
    let above = new Uint8Array(stride);
    for (let row = 0; row < height; row++) {
      const start = row * (stride + 1), filter = raw[start];
      if (filter > 4) throw new Refused("the picture is damaged");
      const line = raw.subarray(start + 1, start + 1 + stride);
      for (let i = 0; i < stride; i++) {
        const left = i >= step ? line[i - step] : 0, up = above[i], corner = i >= step ? above[i - step] : 0;
        if (filter === 1) line[i] += left;
        else if (filter === 2) line[i] += up;
        else if (filter === 3) line[i] += (left + up) >> 1;
        else if (filter === 4) {
          const guess = left + up - corner;
          const a = Math.abs(guess - left), b = Math.abs(guess - up), c = Math.abs(guess - corner);
          line[i] += a <= b && a <= c ? left : b <= c ? up : corner;
        }
      }
      for (let i = 0; i < stride; i += 2) values[row * width * samples + i / 2] = line[i] * 256 + line[i + 1];
      above = line;
    }
    return { height, width, channels: samples, data: values };
  }

  /** Composite 16-bit values with alpha over black. */
  function overBlack({ height, width, channels, data }) {
    if (channels !== 4) return { height, width, channels, data };
    const colours = new Uint16Array(height * width * 3);
    for (let i = 0; i < height * width; i++) {
      for (let c = 0; c < 3; c++) colours[3 * i + c] = Math.floor((data[4 * i + c] * data[4 * i + 3] + 32767) / 65535);
    }
    return { height, width, channels: 3, data: colours };
  }

  /** Map values linearly to [0, 255]: the given range, or the smallest and the largest. */
  function stretched({ height, width, channels, data }, valueRange) {
    let [low, high] = valueRange ?? [Infinity, -Infinity];
    if (!valueRange) {
      for (const value of data) { if (value < low) low = value; if (value > high) high = value; }
    }
    const levels = new Uint8Array(data.length), factor = Math.fround(255 / (high - low));
    if (low !== high) {
      for (let i = 0; i < data.length; i++) {
        const level = Math.fround(Math.fround(data[i] - low) * factor);
        levels[i] = roundHalfEven(Math.min(255, Math.max(0, level)));
      }
    }
    return { height, width, channels, data: levels };
  }

  async function readBmp(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length < 54 || ![1, 4, 8, 24].includes(view.getUint16(28, true))) {
      throw new Refused(`a browser cannot read this kind of BMP; ${ELSEWHERE}`);
    }
    const width = view.getInt32(18, true), height = Math.abs(view.getInt32(22, true));
    return decode(new Blob([bytes], { type: "image/bmp" }), height, width);
  }

  /** Decode with the browser, in strips, because phones limit the size of a canvas. */
  async function decode(blob, height, width) {
    checkSize(height, width);
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    } catch {
      throw new Refused("the picture is damaged or of an unknown kind");
    }
    if (bitmap.width !== width || bitmap.height !== height) throw new Refused("the picture is damaged");
    const rows = Math.max(1, Math.min(height, Math.floor(STRIP_PIXELS / width)));
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = rows;
    const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    const data = new Uint8Array(height * width * 3);
    for (let top = 0; top < height; top += rows) {
      const count = Math.min(rows, height - top);
      context.fillRect(0, 0, width, rows); // black, below transparent pixels
      context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
      const strip = context.getImageData(0, 0, width, count).data;
      for (let from = 0, to = top * width * 3; from < strip.length; from += 4, to += 3) {
        data[to] = strip[from]; data[to + 1] = strip[from + 1]; data[to + 2] = strip[from + 2];
      }
    }
    bitmap.close();
    return { height, width, channels: 3, data };
  }

  function upright(image, orientation) {
    if (orientation === 1) return image;
    const { height, width, channels, data } = image;
    const swapped = orientation >= 5;
    const [newHeight, newWidth] = swapped ? [width, height] : [height, width];
    const turned = new Uint8Array(data.length);
    for (let y = 0; y < newHeight; y++) {
      for (let x = 0; x < newWidth; x++) {
        const v = [3, 4, 7, 8].includes(orientation) ? newHeight - 1 - y : y;
        const u = [2, 3, 6, 7].includes(orientation) ? newWidth - 1 - x : x;
        const from = (swapped ? u * width + v : v * width + u) * channels;
        for (let c = 0; c < channels; c++) turned[(y * newWidth + x) * channels + c] = data[from + c];
      }
    }
    return { height: newHeight, width: newWidth, channels, data: turned };
  }

  /** Convert between grey and colours, by 0.299 R + 0.587 G + 0.114 B in OpenCV's integers. */
  function withChannels(image, channels) {
    if (image.channels === channels) return image;
    const { height, width, data } = image, count = height * width;
    const converted = new Uint8Array(count * channels);
    for (let i = 0; i < count; i++) {
      if (channels === 1) {
        converted[i] = (data[3 * i] * 9798 + data[3 * i + 1] * 19235 + data[3 * i + 2] * 3735 + 16384) >> 15;
      } else converted.fill(data[i], 3 * i, 3 * i + 3);
    }
    return { height, width, channels, data: converted };
  }

  // Network input ----------------------------------------------------------------------------

  function roundHalfEven(value) {
    const down = Math.floor(value), rest = value - down;
    return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
  }

  /** Resize to a square: by area if both sides are larger, else bilinearly, as OpenCV does. */
  function resize(image, size) {
    if (image.height === size && image.width === size) return image;
    const shrinks = Math.min(image.height, image.width) > size;
    return shrinks ? resizeArea(image, size) : resizeLinear(image, size);
  }

  /** Source pixels of every target pixel and their shares of its area. */
  function areaTable(from, to) {
    const scale = from / to, table = [];
    for (let target = 0; target < to; target++) {
      const start = target * scale, end = start + scale, width = Math.min(scale, from - start);
      const last = Math.min(Math.floor(end), from - 1), first = Math.min(Math.ceil(start), last);
      if (first - start > 1e-3) table.push([first - 1, target, Math.fround((first - start) / width)]);
      for (let source = first; source < last; source++) table.push([source, target, Math.fround(1 / width)]);
      if (end - last > 1e-3) table.push([last, target, Math.fround(Math.min(end - last, 1, width) / width)]);
    }
    return table;
  }

  function resizeArea({ height, width, channels, data }, size) {
    const columns = areaTable(width, size), lines = areaTable(height, size);
    const row = new Float32Array(size * channels), sum = new Float32Array(size * channels);
    const result = new Uint8Array(size * size * channels);
    const write = (target) => {
      for (let i = 0; i < sum.length; i++) result[target * sum.length + i] = roundHalfEven(Math.min(255, sum[i]));
      sum.fill(0);
    };
    const whole = height % size === 0 && width % size === 0;
    if (whole) { // sums of whole pixels are exact
      const [tall, wide] = [height / size, width / size], share = Math.fround(1 / (tall * wide));
      const four = tall === 2 && wide === 2;
      for (let y = 0; y < size; y++) for (let x = 0; x < size; x++) for (let c = 0; c < channels; c++) {
        let total = 0;
        for (let v = 0; v < tall; v++) for (let u = 0; u < wide; u++) {
          total += data[((y * tall + v) * width + x * wide + u) * channels + c];
        }
        result[(y * size + x) * channels + c] = four ? (total + 2) >> 2 : roundHalfEven(Math.fround(total * share));
      }
      return { height: size, width: size, channels, data: result };
    }
    let before = 0;
    for (const [source, target, share] of lines) {
      row.fill(0);
      for (const [from, to, part] of columns) {
        for (let c = 0; c < channels; c++) {
          row[to * channels + c] += data[(source * width + from) * channels + c] * part;
        }
      }
      if (target !== before) { write(before); before = target; }
      for (let i = 0; i < sum.length; i++) sum[i] += row[i] * share;
    }
    write(before);
    return { height: size, width: size, channels, data: result };
  }

  /** Left source pixel of every target pixel and the weight of the next, between pixel centres. */
  function linearTable(from, to) {
    const scale = from / to;
    return Array.from({ length: to }, (_, target) => {
      const place = Math.fround((target + 0.5) * scale - 0.5), first = Math.floor(place);
      if (first < 0) return [0, 0];
      return first >= from - 1 ? [from - 1, 0] : [first, Math.fround(place - first)];
    });
  }

  function resizeLinear({ height, width, channels, data }, size) {
    const inWhole = (table) => table.map(([first, weight]) => {
      return [first, roundHalfEven(Math.fround(1 - weight) * 2048), roundHalfEven(weight * 2048)];
    });
    const columns = inWhole(linearTable(width, size)), lines = inWhole(linearTable(height, size));
    const result = new Uint8Array(size * size * channels);
    const along = (line, [first, near, far], c) => {
      const place = (line * width + first) * channels + c;
      return data[place] * near + (far ? data[place + channels] * far : 0);
    };
    for (let y = 0; y < size; y++) {
      const [line, near, far] = lines[y], below = Math.min(line + 1, height - 1);
      for (let x = 0; x < size; x++) for (let c = 0; c < channels; c++) {
        const upper = along(line, columns[x], c) >> 4, lower = along(below, columns[x], c) >> 4;
        result[(y * size + x) * channels + c] = (((near * upper) >> 16) + ((far * lower) >> 16) + 2) >> 2;
      }
    }
    return { height: size, width: size, channels, data: result };
  }

  /** Reorder rows of pixels to planes of channels. */
  function planes({ height, width, channels, data }) {
    const count = height * width, result = new Uint8Array(count * channels);
    for (let i = 0; i < count; i++) for (let c = 0; c < channels; c++) result[c * count + i] = data[i * channels + c];
    return result;
  }

  // Result -----------------------------------------------------------------------------------

  /** Enlarge logits (S, S) bilinearly to the size of the image. */
  function enlarge(logits, size, height, width) {
    if (size === height && size === width) return logits;
    const columns = linearTable(width === size ? size : size, width), lines = linearTable(size, height);
    const result = new Float32Array(height * width), rows = new Map();
    const rowOf = (line) => {
      if (!rows.has(line)) {
        const row = new Float32Array(width);
        for (let x = 0; x < width; x++) {
          const [first, weight] = columns[x], place = line * size + first;
          row[x] = logits[place] * Math.fround(1 - weight) + (weight ? logits[place + 1] * weight : 0);
        }
        rows.set(line, row);
      }
      return rows.get(line);
    };
    for (let y = 0; y < height; y++) {
      const [line, weight] = lines[y], upper = rowOf(line);
      const lower = weight ? rowOf(line + 1) : upper, share = Math.fround(1 - weight);
      for (const known of rows.keys()) if (known < line) rows.delete(known);
      for (let x = 0; x < width; x++) result[y * width + x] = upper[x] * share + lower[x] * weight;
    }
    return result;
  }

  const sigmoid = (logit) => Math.fround(1 / (1 + Math.fround(Math.exp(-logit))));

  function softmax(logits) {
    const most = Math.max(...logits), powers = Array.from(logits, (logit) => Math.exp(logit - most));
    const total = powers.reduce((sum, power) => sum + power, 0);
    return powers.map((power) => power / total);
  }

  /** Segmentation: {mask} of class indices, and with two classes the foreground {probability}. */
  function segment(logits, model, height, width) {
    const size = model.image_size, count = size * size, two = model.class_names.length === 2;
    const enlarged = Array.from({ length: two ? 1 : model.class_names.length }, (_, k) => {
      return enlarge(logits.subarray(k * count, (k + 1) * count), size, height, width);
    });
    const mask = new Uint8Array(height * width);
    if (two) {
      const probability = enlarged[0].map(sigmoid);
      for (let i = 0; i < mask.length; i++) mask[i] = probability[i] >= model.threshold ? 1 : 0;
      return { mask, probability };
    }
    for (let i = 0; i < mask.length; i++) {
      for (let k = 1; k < enlarged.length; k++) if (enlarged[k][i] > enlarged[mask[i]][i]) mask[i] = k;
    }
    return { mask, probability: null };
  }

  /** Classification: {probability} of every class, and the index {predicted}. */
  function classify(logits, model) {
    if (model.class_names.length === 2) {
      const positive = sigmoid(logits[0]);
      return { probability: [1 - positive, positive], predicted: positive >= model.threshold ? 1 : 0 };
    }
    const probability = softmax(logits);
    return { probability, predicted: logits.indexOf(Math.max(...logits)) };
  }

  return { Refused, read, resize, planes, segment, classify, withChannels };
})();
