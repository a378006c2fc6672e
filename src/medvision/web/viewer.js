// Shows the result for one image: overlay, probability, threshold; lets the user correct a mask.
"use strict";
var medvisionViewer = (() => {
  const COLORS = [[60, 110, 255], [255, 210, 40], [255, 70, 230], [60, 230, 255], [255, 130, 40], [190, 140, 255]];
  const colorOf = (label) => COLORS[(label - 1) % COLORS.length];
  const LARGEST_THRESHOLD = 0.999;

  function element(tag, attributes = {}, ...content) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...content);
    return made;
  }

  function slider(label, { min, max, step, value }, onInput) {
    const shown = element("output", {}, String(value));
    const input = element("input", { type: "range", min, max, step, "aria-label": label });
    input.value = value;
    input.addEventListener("input", () => { shown.textContent = input.value; onInput(Number(input.value)); });
    const set = (v) => { input.value = v; shown.textContent = String(v); };
    return { node: element("label", { class: "mv-slider" }, element("span", {}, label), input, shown), set };
  }

  /** Rows of a table of probabilities, the largest first. */
  function probabilities(names, values) {
    const order = names.map((_, index) => index).sort((a, b) => values[b] - values[a]);
    return element("table", { class: "mv-probabilities" }, element("tbody", {}, ...order.map((index) => {
      const bar = element("div", { class: "mv-bar" }, element("div"));
      bar.firstChild.style.width = `${100 * values[index]}%`;
      return element("tr", {},
        element("th", { scope: "row" }, names[index]), element("td", {}, bar),
        element("td", { class: "mv-number" }, `${(100 * values[index]).toFixed(1)} %`));
    })));
  }

  /** Share of the foreground in per cent, per class, and the number of its connected regions. */
  function measure(mask, height, width, names) {
    const counts = new Array(names.length).fill(0);
    for (const label of mask) counts[label] += 1;
    const shares = counts.map((count) => (100 * count) / mask.length);
    const seen = new Uint8Array(mask.length), waiting = new Int32Array(mask.length);
    let regions = 0;
    for (let start = 0; start < mask.length; start++) {
      if (!mask[start] || seen[start]) continue;
      regions += 1;
      let end = 0;
      waiting[end++] = start;
      seen[start] = 1;
      while (end) {
        const place = waiting[--end], x = place % width, y = (place - x) / width;
        for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
          for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
            const next = v * width + u;
            if (!seen[next] && mask[next] === mask[start]) { seen[next] = 1; waiting[end++] = next; }
          }
        }
      }
    }
    return { shares, regions };
  }

  /** Colour of a probability, from transparent to red; [red, green, blue, opacity]. */
  function heatColor(value) {
    const wave = (shift) => Math.round(255 * Math.min(1, Math.max(0, 1.5 - Math.abs(4 * value - shift))));
    return [wave(3), wave(2), wave(1), 0.25 + 0.6 * value];
  }

  /** PNG of a mask: 0 and 255 with two classes, else class indices. */
  function maskPng(mask, height, width, numClasses) {
    const canvas = element("canvas", { width, height });
    const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
    for (let i = 0; i < mask.length; i++) {
      const value = numClasses === 2 ? mask[i] * 255 : mask[i];
      picture.data.fill(value, 4 * i, 4 * i + 3);
      picture.data[4 * i + 3] = 255;
    }
    context.putImageData(picture, 0, 0);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  function download(blob, name) {
    const url = URL.createObjectURL(blob), link = element("a", { href: url, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  /**
   * Show a segmentation.
   *
   * image: {height, width, channels, data}; result: {mask, probability}, probability in [0, 1] or
   * null; model: {class_names, threshold}; onSave(mask): called with a corrected mask, if given.
   * Returns {node, mask}, where mask() is the one that is shown.
   */
  function segmentation(image, result, model, { name, onSave = null, downloads = true }) {
    const { height, width } = image, names = model.class_names, two = names.length === 2;
    const state = { view: "overlay", opacity: 0.45, mask: result.mask.slice(), edited: false, tool: null, label: 1, size: Math.max(2, Math.round(Math.min(height, width) / 25)), before: [] };
    const canvas = element("canvas", { width, height, class: "mv-canvas", role: "img", "aria-label": `result for ${name}` });
    const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
    const facts = element("p", { class: "mv-facts", "aria-live": "polite" });

    function draw() {
      const { data, channels } = image, out = picture.data, { mask, opacity, view } = state;
      for (let i = 0; i < mask.length; i++) {
        let red = data[i * channels], green = channels === 3 ? data[i * 3 + 1] : red, blue = channels === 3 ? data[i * 3 + 2] : red;
        if (view === "overlay" && mask[i]) {
          const color = colorOf(mask[i]), x = i % width;
          const edge = x === 0 || x === width - 1 || mask[i - 1] !== mask[i] || mask[i + 1] !== mask[i] || mask[i - width] !== mask[i] || mask[i + width] !== mask[i];
          const cover = edge ? Math.min(1, opacity * 2) : opacity;
          red += (color[0] - red) * cover; green += (color[1] - green) * cover; blue += (color[2] - blue) * cover;
        } else if (view === "probability") {
          const [r, g, b, strength] = heatColor(result.probability[i]), cover = strength * Math.min(1, 2 * opacity);
          red += (r - red) * cover; green += (g - green) * cover; blue += (b - blue) * cover;
        }
        out[4 * i] = red; out[4 * i + 1] = green; out[4 * i + 2] = blue; out[4 * i + 3] = 255;
      }
      context.putImageData(picture, 0, 0);
    }

    let asked = false;
    const redraw = () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => { asked = false; draw(); });
    };
    const count = () => {
      const { shares, regions } = measure(state.mask, height, width, names);
      const parts = names.slice(1).map((label, k) => `${label}: ${shares[k + 1].toFixed(2)} % of the image`);
      facts.textContent = `${parts.join("; ")}; ${regions} ${regions === 1 ? "region" : "regions"}${state.edited ? " (edited)" : ""}`;
    };

    const views = [["overlay", "Overlay"], ...(result.probability ? [["probability", "Probability"]] : []), ["image", "Image"]];
    const tabs = element("div", { class: "mv-tabs", role: "group", "aria-label": "view" }, ...views.map(([view, title]) =>
      element("button", { type: "button", "aria-pressed": String(view === state.view), onclick: (event) => {
        state.view = view;
        for (const tab of tabs.children) tab.setAttribute("aria-pressed", String(tab === event.currentTarget));
        redraw();
      } }, title)));
    const controls = element("div", { class: "mv-controls" }, tabs,
      slider("Opacity", { min: 0, max: 1, step: 0.05, value: state.opacity }, (value) => { state.opacity = value; redraw(); }).node);
    if (two && result.probability) {
      const start = Number(model.threshold.toPrecision(4));
      const threshold = slider("Threshold", { min: 0.001, max: LARGEST_THRESHOLD, step: 0.001, value: start }, (value) => applyThreshold(value));
      const applyThreshold = (value) => {
        // the threshold of the model gives its own mask, whatever the steps of the slider
        if (value === start) state.mask = result.mask.slice();
        else for (let i = 0; i < state.mask.length; i++) state.mask[i] = result.probability[i] >= value ? 1 : 0;
        state.edited = false;
        state.before = [];
        redraw();
        count();
      };
      controls.append(threshold.node, element("button", { type: "button", onclick: () => { threshold.set(start); applyThreshold(start); } }, `Reset to ${start}`));
    }
    if (names.length > 2) {
      controls.append(element("ul", { class: "mv-legend" }, ...names.slice(1).map((label, k) => {
        const mark = element("span", { class: "mv-mark" });
        mark.style.background = `rgb(${colorOf(k + 1).join()})`;
        return element("li", {}, mark, label);
      })));
    }
    if (onSave) controls.append(brush());
    if (downloads) {
      controls.append(element("button", { type: "button", onclick: async () => {
        download(await maskPng(state.mask, height, width, names.length), `${name.replace(/\.[^.]*$/, "")}_mask.png`);
      } }, "Download mask"));
    }

    function brush() {
      const save = element("button", { type: "button", class: "mv-primary", disabled: true, onclick: () => { onSave(state.mask); save.disabled = true; } }, "Save as training pair");
      const undo = element("button", { type: "button", disabled: true, onclick: () => {
        state.mask = state.before.pop();
        undo.disabled = !state.before.length;
        redraw();
        count();
      } }, "Undo");
      const tools = [["brush", "Brush"], ["eraser", "Eraser"]].map(([tool, title]) =>
        element("button", { type: "button", "aria-pressed": "false", onclick: (event) => {
          state.tool = state.tool === tool ? null : tool;
          for (const other of tools) other.setAttribute("aria-pressed", String(other === event.currentTarget && state.tool === tool));
          canvas.classList.toggle("mv-editing", state.tool !== null);
        } }, title));
      let last = null;
      const place = (event) => {
        const box = canvas.getBoundingClientRect();
        return [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height];
      };
      const paint = ([x, y]) => {
        const label = state.tool === "eraser" ? 0 : state.label, radius = state.size / 2;
        for (let v = Math.max(0, Math.floor(y - radius)); v <= Math.min(height - 1, y + radius); v++) {
          for (let u = Math.max(0, Math.floor(x - radius)); u <= Math.min(width - 1, x + radius); u++) {
            if ((u + 0.5 - x) ** 2 + (v + 0.5 - y) ** 2 <= radius ** 2) state.mask[v * width + u] = label;
          }
        }
      };
      const stroke = (event) => {
        const next = place(event), steps = Math.max(1, Math.ceil(Math.hypot(next[0] - last[0], next[1] - last[1]) / Math.max(1, state.size / 4)));
        for (let i = 1; i <= steps; i++) paint([0, 1].map((axis) => last[axis] + ((next[axis] - last[axis]) * i) / steps));
        last = next;
        redraw();
      };
      canvas.addEventListener("pointerdown", (event) => {
        if (!state.tool) return;
        event.preventDefault();
        canvas.setPointerCapture(event.pointerId);
        state.before = [...state.before.slice(-19), state.mask.slice()];
        state.edited = true;
        last = place(event);
        stroke(event);
      });
      canvas.addEventListener("pointermove", (event) => { if (last) stroke(event); });
      for (const kind of ["pointerup", "pointercancel"]) {
        canvas.addEventListener(kind, () => {
          if (!last) return;
          last = null;
          undo.disabled = save.disabled = false;
          count();
        });
      }
      const label = names.length > 2 && element("select", { "aria-label": "class of the brush", onchange: (event) => { state.label = Number(event.target.value); } },
        ...names.slice(1).map((text, k) => element("option", { value: k + 1 }, text)));
      const size = slider("Brush size", { min: 1, max: Math.max(8, Math.round(Math.min(height, width) / 4)), step: 1, value: state.size }, (value) => { state.size = value; });
      return element("fieldset", { class: "mv-brush" }, element("legend", {}, "Correct the mask"), ...tools, undo, ...(label ? [label] : []), size.node, save);
    }

    draw();
    count();
    return { node: element("div", { class: "mv-result" }, canvas, controls, facts), mask: () => state.mask };
  }

  /** Show a classification. */
  function classification(image, result, model, { name }) {
    const { height, width, channels, data } = image;
    const canvas = element("canvas", { width, height, class: "mv-canvas", role: "img", "aria-label": name });
    const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
    for (let i = 0; i < height * width; i++) {
      for (let c = 0; c < 3; c++) picture.data[4 * i + c] = data[i * channels + (channels === 3 ? c : 0)];
      picture.data[4 * i + 3] = 255;
    }
    context.putImageData(picture, 0, 0);
    const names = model.class_names, verdict = element("p", { class: "mv-facts", "aria-live": "polite" });
    const say = (index, note = "") => { verdict.textContent = `${names[index]}, ${(100 * result.probability[index]).toFixed(1)} %${note}`; };
    say(result.predicted);
    const controls = element("div", { class: "mv-controls" }, verdict, probabilities(names, result.probability));
    if (names.length === 2) {
      const start = Number(model.threshold.toPrecision(4));
      const apply = (value) => say(value === start ? result.predicted : Number(result.probability[1] >= value), value === start ? "" : ` (threshold ${value})`);
      const threshold = slider(`Threshold of ${names[1]}`, { min: 0.001, max: LARGEST_THRESHOLD, step: 0.001, value: start }, apply);
      controls.append(threshold.node, element("button", { type: "button", onclick: () => { threshold.set(start); apply(start); } }, `Reset to ${start}`));
    }
    return { node: element("div", { class: "mv-result" }, canvas, controls) };
  }

  return { segmentation, classification, element, maskPng, probabilities };
})();
