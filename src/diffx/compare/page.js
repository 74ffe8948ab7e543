"use strict";
// Draws the curves of the embedded data. Between evaluations the logarithm of a value is linear along the axis, as in
// the tables; the line is the mean over seeds and the band goes from the least to the greatest.
const data = JSON.parse(document.getElementById("data").textContent);
const state = {
  axis: "cost",
  hidden: new Set(),
  metrics: new Set(data.metrics.filter((metric) => metric.distance).map((metric) => metric.key)),
};
const longest = Math.max(...data.methods.map((method) => (method.label + method.mark).length));
const SIZE = { width: 560, height: 340, left: 52, right: Math.min(240, 24 + 6.4 * (longest + 6)), top: 10, bottom: 40 };
const tooltip = document.getElementById("tooltip");

function element(name, attributes = {}, text = null) {
  const svg = ["svg", "path", "line", "text", "circle", "polygon", "g", "rect"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function compact(value) {
  for (const [size, prefix] of [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (Math.abs(value) >= size) return `${Number((value / (prefix === "k" ? 1e3 : size)).toPrecision(3))}${prefix}`;
  }
  return String(Number(value.toPrecision(Math.abs(value) >= 1000 ? 4 : 3)));
}

function valueAt(curve, x) {
  const right = Math.max(1, curve.x.findIndex((position) => position >= x));
  if (curve.x.length === 1) return curve.y[0];
  const share = (x - curve.x[right - 1]) / (curve.x[right] - curve.x[right - 1]);
  const [before, after] = [curve.y[right - 1], curve.y[right]];
  return Math.min(before, after) <= 0 ? before + share * (after - before) : before * (after / before) ** share;
}

// Seeds with one evaluation each share the mean of their costs.
function single(curves) {
  const values = curves.map((curve) => curve.y[0]);
  const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
  const [x, low, high] = [mean(curves.map((curve) => curve.x[0])), Math.min(...values), Math.max(...values)];
  return { x, measured: true, mean: mean(values), low, high, count: values.length };
}

// All seeds of a method on one grid: the evaluations within the range that every seed covers. Seeds that diverged are
// left out, unless all did; the remarks name them.
function pooled(method, metric) {
  const sound = method.runs.some((run) => !run.diverged);
  const curves = method.runs.filter((run) => !run.diverged || !sound).map((run) => {
    const kept = run.points.filter((point) => metric in point.values);
    return { x: kept.map((point) => point[state.axis]), y: kept.map((point) => point.values[metric]) };
  }).filter((curve) => curve.x.length > 0);
  if (curves.length === 0) return [];
  const low = Math.max(...curves.map((curve) => curve.x[0]));
  const high = Math.min(...curves.map((curve) => curve.x.at(-1)));
  if (curves.every((curve) => curve.x.length === 1)) return [single(curves)];
  const used = low < high || curves.length === 1 ? curves : [curves.sort((a, b) => b.x.at(-1) - a.x.at(-1))[0]];
  const [from, to] = used.length === 1 ? [-Infinity, Infinity] : [low, high];
  const costs = [...new Set(used.flatMap((curve) => curve.x))].filter((x) => x >= from && x <= to).sort((a, b) => a - b);
  return between(costs).map(({ x, measured }) => {
    const values = used.map((curve) => valueAt(curve, x));
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    return { x, measured, mean, low: Math.min(...values), high: Math.max(...values), count: values.length };
  });
}

// The costs with more of them in between, so that a drawn line bends as the interpolation does.
function between(costs) {
  return costs.flatMap((left, index) => {
    if (index === costs.length - 1) return [{ x: left, measured: true }];
    const gap = (costs[index + 1] - left) / 8;
    return Array.from({ length: 8 }, (_, part) => ({ x: left + part * gap, measured: part === 0 }));
  });
}

function scale(values, from, to, log) {
  const usable = log ? values.filter((value) => value > 0) : values;
  const change = log ? Math.log : (value) => value;
  let [low, high] = [change(Math.min(...usable)), change(Math.max(...usable))];
  const room = (high - low) * 0.04 || 0.5;
  [low, high] = [low - room, high + room];
  const place = (value) => from + ((to - from) * (change(value) - low)) / (high - low);
  return { place, ticks: ticks(low, high, log) };
}

function ticks(low, high, log) {
  const found = [];
  if (!log) {
    const step = 10 ** Math.floor(Math.log10((high - low) / 3));
    const stride = [1, 2, 5, 10].map((times) => times * step).find((size) => (high - low) / size <= 6);
    for (let value = Math.ceil(low / stride) * stride; value <= high; value += stride) found.push(Number(value.toPrecision(10)));
    return found;
  }
  const decades = (high - low) / Math.LN10;
  const digits = decades > 2.5 ? [1] : decades > 0.8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  for (let power = Math.floor(low / Math.LN10); power <= high / Math.LN10; power++) {
    for (const digit of digits) {
      const value = Number(`${digit}e${power}`);
      if (Math.log(value) >= low && Math.log(value) <= high) found.push(value);
    }
  }
  return found;
}

// Moves heights apart so that neighbours are at least `gap` away, within the panel.
function apart(heights, gap) {
  const order = heights.map((height, index) => ({ height, index })).sort((a, b) => a.height - b.height);
  const groups = [];
  const bottom = (group) => {
    const high = gap * (group.length - 1);
    const centred = group.reduce((sum, item) => sum + item.height, 0) / group.length - high / 2;
    return Math.max(SIZE.top, Math.min(centred, SIZE.height - SIZE.bottom - high));
  };
  for (const one of order) {
    groups.push([one]);
    while (groups.length > 1 && bottom(groups.at(-1)) < bottom(groups.at(-2)) + gap * groups.at(-2).length) {
      const last = groups.pop();
      groups[groups.length - 1] = groups.at(-1).concat(last);
    }
    for (const group of groups) group.forEach((item, rank) => { item.placed = bottom(group) + rank * gap; });
  }
  return order.sort((a, b) => a.index - b.index).map((item) => item.placed);
}

function panel(metric) {
  const figure = element("figure");
  const title = element("figcaption", {}, metric.title);
  title.append(element("span", {}, metric.subtitle));
  const shown = data.methods.filter((method) => !state.hidden.has(method.label));
  const lines = shown.map((method) => ({ method, points: pooled(method, metric.key) })).filter((line) => line.points.length);
  figure.append(title);
  if (lines.length === 0) return figure;
  const label = `${metric.title} of ${lines.map((line) => line.method.label).join(", ")}; the values stand in the tables below`;
  const svg = element("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "group", "aria-label": label });
  const marks = (metric.marks[state.axis] || []);
  const xs = [...lines.flatMap((line) => line.points.map((point) => point.x)), ...marks.map((mark) => mark.x)];
  const ys = [...lines.flatMap((line) => line.points.flatMap((point) => [point.low, point.high])), ...marks.map((mark) => mark.value)];
  // What real images score is part of the panel unless that would squeeze the curves.
  const near = metric.floor !== null && Math.min(...ys) <= 5 * metric.floor;
  if (near) ys.push(metric.floor);
  const x = scale(xs, SIZE.left, SIZE.width - SIZE.right, document.getElementById("logx").checked);
  const y = scale(ys, SIZE.height - SIZE.bottom, SIZE.top, document.getElementById("logy").checked);
  frame(svg, x, y);
  if (near) across(svg, y, metric.floor, "floor", "real images");
  across(svg, y, metric.goal, "goal", null);
  for (const mark of marks) published(svg, mark, x, y);
  for (const line of lines) curve(svg, line, x, y, metric);
  const gains = (metric.rings[state.axis] || []).filter((ring) => !state.hidden.has(ring.label));
  const rings = gains.filter((ring) => !ring.bound);
  const places = rings.map((ring) => x.place(ring.x)).sort((a, b) => a - b);
  const crowded = places.some((place, index) => index > 0 && place - places[index - 1] < 26);
  for (const ring of rings) meeting(svg, ring, x, y, metric, crowded);
  ends(svg, lines, x, y, gains.filter((gain) => crowded || gain.bound));
  figure.append(svg);
  return figure;
}

function frame(svg, x, y) {
  const [bottom, right] = [SIZE.height - SIZE.bottom, SIZE.width - SIZE.right];
  for (const tick of y.ticks) {
    svg.append(element("line", { class: "grid", x1: SIZE.left, x2: right, y1: y.place(tick), y2: y.place(tick) }));
    svg.append(element("text", { x: SIZE.left - 6, y: y.place(tick) + 4, "text-anchor": "end" }, compact(tick)));
  }
  for (const tick of x.ticks) {
    svg.append(element("line", { class: "grid", x1: x.place(tick), x2: x.place(tick), y1: SIZE.top, y2: bottom }));
    svg.append(element("text", { x: x.place(tick), y: bottom + 15, "text-anchor": "middle" }, compact(tick)));
  }
  svg.append(element("path", { class: "axis", d: `M${SIZE.left} ${SIZE.top}V${bottom}H${right}` }));
  const name = data.axes.find((axis) => axis.key === state.axis).label;
  svg.append(element("text", { class: "xlabel", x: (SIZE.left + right) / 2, y: bottom + 33, "text-anchor": "middle" }, name));
}

function across(svg, y, value, kind, name) {
  if (value === null || !(value > 0)) return;
  const at = y.place(value);
  svg.append(element("line", { class: kind, x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: at, y2: at }));
  if (name) svg.append(element("text", { class: "small", x: SIZE.left + 3, y: at - 3 }, `${name} ${compact(value)}`));
}

function published(svg, mark, x, y) {
  const [cx, cy] = [x.place(mark.x), y.place(mark.value)];
  const diamond = element("polygon", { class: "mark", points: `${cx},${cy - 4} ${cx + 4},${cy} ${cx},${cy + 4} ${cx - 4},${cy}` });
  diamond.addEventListener("pointerenter", (event) => {
    show([mark.name, `published: ${compact(mark.value)}`, mark.source], event.clientX, event.clientY, "");
  });
  diamond.addEventListener("pointerleave", hide);
  svg.append(diamond);
}

// A ring where a method meets the baseline's final value; its factor stands beside it where there is room.
function meeting(svg, ring, x, y, metric, crowded) {
  const method = data.methods.find((one) => one.label === ring.label);
  const [cx, cy] = [x.place(ring.x), y.place(metric.goal)];
  const group = element("g", { class: `ring tone-${method.tone}`, "data-method": ring.label });
  group.append(element("circle", { cx, cy, r: 4.5 }));
  if (!crowded) group.append(element("text", { x: cx + 4, y: cy - 8 }, ring.factor));
  const axis = data.axes.find((one) => one.key === state.axis).label;
  group.addEventListener("pointerenter", (event) => {
    const said = `${compact(metric.goal)} after ${compact(ring.x)} ${axis}`;
    show([ring.label, said, `${ring.factor} sooner than the baseline${ring.interval}`], event.clientX, event.clientY, `tone-${method.tone}`);
  });
  group.addEventListener("pointerleave", hide);
  svg.append(group);
}

function curve(svg, line, x, y, metric) {
  const { method, points: drawn } = line;
  const points = drawn.filter((point) => point.measured);
  const group = element("g", {
    class: `curve tone-${method.tone}`, "data-method": method.label, "data-metric": metric.key, tabindex: 0, role: "img",
    "aria-label": description(method, metric, points.at(-1)).join(", "),
  });
  const path = drawn.map((point, index) => `${index ? "L" : "M"}${x.place(point.x)} ${y.place(point.mean)}`).join("");
  if (points.some((point) => point.count > 1)) {
    const upper = drawn.map((point) => `${x.place(point.x)} ${y.place(point.high)}`);
    const lower = drawn.map((point) => `${x.place(point.x)} ${y.place(point.low)}`).reverse();
    group.append(element("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z` }));
  }
  group.append(element("path", { class: "line", d: path, "stroke-dasharray": method.dash }));
  const dot = element("circle", { class: "dot", r: 4, visibility: "hidden" });
  if (points.length === 1) {
    const [cx, top, bottom] = [x.place(points[0].x), y.place(points[0].high), y.place(points[0].low)];
    group.append(element("path", { class: "line", d: `M${cx} ${top}V${bottom}` }));
    group.append(element("circle", { class: "dot", cx, cy: y.place(points[0].mean), r: 3.5 }));
  }
  group.append(dot, element("path", { class: "reach", d: points.length === 1 ? `${path}h0.01` : path }));
  const point = (index, left, top) => {
    dot.setAttribute("cx", x.place(points[index].x));
    dot.setAttribute("cy", y.place(points[index].mean));
    dot.setAttribute("visibility", "visible");
    show(description(method, metric, points[index]), left, top, `tone-${method.tone}`);
    for (const other of svg.querySelectorAll(".curve")) other.classList.toggle("faded", other !== group);
  };
  const leave = () => {
    dot.setAttribute("visibility", "hidden");
    for (const other of svg.querySelectorAll(".curve")) other.classList.remove("faded");
    hide();
  };
  group.addEventListener("pointermove", (event) => {
    const at = ((event.clientX - svg.getBoundingClientRect().left) * SIZE.width) / svg.getBoundingClientRect().width;
    const gaps = points.map((one) => Math.abs(x.place(one.x) - at));
    point(gaps.indexOf(Math.min(...gaps)), event.clientX, event.clientY);
  });
  group.addEventListener("pointerleave", leave);
  let index = points.length - 1;
  const walk = () => {
    const box = svg.getBoundingClientRect();
    const ratio = box.width / SIZE.width;
    point(index, box.left + x.place(points[index].x) * ratio, box.top + y.place(points[index].mean) * ratio);
  };
  group.addEventListener("focus", walk);
  group.addEventListener("blur", leave);
  group.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    index = Math.min(points.length - 1, Math.max(0, index + step));
    walk();
  });
  svg.append(group);
}

function description(method, metric, point) {
  const axis = data.axes.find((one) => one.key === state.axis).label;
  const range = point.count > 1 ? ` [${compact(point.low)} – ${compact(point.high)}], ${point.count} seeds` : ", one seed";
  const settings = Object.entries(method.settings).map(([name, value]) => `${name}: ${value}`);
  return [method.label, `${metric.title} ${compact(point.mean)}${range}`, `${compact(point.x)} ${axis}`, ...settings];
}

function ends(svg, lines, x, y, rings) {
  const heights = apart(lines.map((line) => y.place(line.points.at(-1).mean)), 13);
  lines.forEach((line, index) => {
    const last = line.points.at(-1);
    const [left, right] = [x.place(last.x) + 3, SIZE.width - SIZE.right + 12];
    const ring = rings.find((one) => one.label === line.method.label);
    const factor = ring ? `  ${ring.factor}` : "";
    const group = element("g", { class: `tone-${line.method.tone}` });
    group.append(element("line", { class: "lead", x1: left, y1: y.place(last.mean), x2: right - 3, y2: heights[index] }));
    group.append(element("text", { class: "end", x: right, y: heights[index] + 4 }, line.method.label + line.method.mark + factor));
    svg.append(group);
  });
}

function show(rows, left, top, tone) {
  tooltip.replaceChildren(element("b", {}, rows[0]), ...rows.slice(1).map((row) => element("span", {}, row)));
  tooltip.className = tone;
  tooltip.hidden = false;
  const box = tooltip.getBoundingClientRect();
  tooltip.style.left = `${Math.max(8, Math.min(left + 14, innerWidth - box.width - 8))}px`;
  tooltip.style.top = `${Math.max(8, top + 14 + box.height > innerHeight ? top - box.height - 14 : top + 14)}px`;
}

function hide() {
  tooltip.hidden = true;
}

function draw() {
  hide();
  const shown = data.metrics.filter((metric) => state.metrics.has(metric.key));
  document.getElementById("panels").replaceChildren(...shown.map(panel));
}

function choice(parent, kind, name, value, text, checked, change) {
  const label = element("label");
  const input = element("input", { type: kind, name, value });
  input.checked = checked;
  input.addEventListener("change", () => { change(input.checked); draw(); });
  label.append(input, ` ${text}`);
  parent.append(label);
}

function controls() {
  for (const axis of data.axes) {
    choice(document.getElementById("axes"), "radio", "axis", axis.key, axis.label, axis.key === state.axis, () => { state.axis = axis.key; });
  }
  for (const metric of data.metrics) {
    choice(document.getElementById("metrics"), "checkbox", "metric", metric.key, metric.title, metric.distance, (on) => {
      state.metrics[on ? "add" : "delete"](metric.key);
    });
  }
  for (const id of ["logx", "logy"]) document.getElementById(id).addEventListener("change", draw);
  for (const method of data.methods) {
    const button = element("button", { type: "button", "aria-pressed": "true", class: `tone-${method.tone}` }, method.label + method.mark);
    button.addEventListener("click", () => {
      const hide = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!hide));
      state.hidden[hide ? "add" : "delete"](method.label);
      draw();
    });
    document.getElementById("methods").append(button);
  }
}

function texts() {
  document.title = data.title;
  for (const name of ["title", "verdict", "caption"]) document.getElementById(name).textContent = data[name];
  for (const table of data.tables) document.getElementById("tables").append(...written(table));
  document.getElementById("card").append(...data.card.map((line) => element("li", {}, line)));
  if (data.remarks.length === 0) return;
  const list = element("ul");
  list.append(...data.remarks.map((line) => element("li", {}, line)));
  document.getElementById("remarks").append(element("h2", {}, "Remarks"), list);
}

function written(table) {
  const body = element("table");
  const row = (cells, kind) => {
    const line = element("tr");
    line.append(...cells.map((cell) => element(kind, kind === "th" ? { scope: "col" } : {}, cell)));
    return line;
  };
  body.append(row(table.header, "th"), ...table.rows.map((cells) => row(cells, "td")));
  const scroll = element("div", { class: "scroll" });
  scroll.append(body);
  return [element("h2", {}, table.title), scroll, element("p", { class: "note" }, table.note)];
}

texts();
controls();
draw();
