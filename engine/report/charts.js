"use strict";
/* Elements, and histograms as inline SVG. Text only ever becomes text: nothing here parses HTML. */

const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const byId = (id) => document.getElementById(id);
const whole = (count) => count.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(share < 0.1 && share > 0 ? 1 : 0)} %`;
const digits = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));

/* A figure with the numbers of labels in equal parts of 0..1. */
function drawHistogram(title, bins, mean) {
  const [width, height, base] = [260, 96, 78];
  const most = Math.max(1, ...bins);
  const step = width / bins.length;
  const total = bins.reduce((sum, count) => sum + count, 0);
  const svg = makeSvg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `${title} of ${whole(total)} labels${mean === undefined ? "" : `, mean ${digits(mean)}`}`,
  });
  bins.forEach((count, i) => {
    const tall = count ? Math.max(2, (count / most) * (base - 8)) : 0;
    const bar = makeSvg("rect", {
      class: "column", x: i * step + 1, y: base - tall, width: step - 2, height: tall, rx: 1.5,
    });
    bar.append(makeSvg("title", {}, `${digits(i / bins.length)}–${digits((i + 1) / bins.length)}: ${whole(count)}`));
    svg.append(bar);
  });
  svg.append(makeSvg("line", { class: "axis", x1: 0, x2: width, y1: base + 0.5, y2: base + 0.5 }));
  if (mean !== undefined) {
    svg.append(makeSvg("line", { class: "mean", x1: mean * width, x2: mean * width, y1: 2, y2: base }));
  }
  [[0, "start", "0"], [width / 2, "middle", "0.5"], [width, "end", "1"]].forEach(([x, anchor, text]) => {
    svg.append(makeSvg("text", { x, y: height - 4, "text-anchor": anchor }, text));
  });
  const caption = make("figcaption", {}, make("span", {}, title));
  if (mean !== undefined) caption.append(make("span", { class: "soft" }, `mean ${digits(mean)}`));
  return make("figure", {}, caption, svg);
}

/* A figure with one bar for each flag. */
function drawFlags(flagged, total) {
  const rows = Object.entries(flagged).map(([flag, count]) =>
    make("li", {},
      make("span", { class: flag ? "flag-name" : "flag-name soft" }, flag || "without flags"),
      drawShare(count / Math.max(1, total)),
      make("span", { class: "number" }, whole(count))));
  const caption = make("figcaption", {}, make("span", {}, "Flags"), make("span", { class: "soft" }, "labels"));
  return make("figure", { class: "flag-chart" }, caption, make("ul", {}, ...rows));
}

function drawShare(share) {
  const svg = makeSvg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(makeSvg("rect", { class: "track", x: 0, y: 0, width: 100, height: 8 }));
  svg.append(makeSvg("rect", { class: "column", x: 0, y: 0, width: 100 * share, height: 8 }));
  return svg;
}
