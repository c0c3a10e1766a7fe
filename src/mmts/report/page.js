"use strict";
// Shows the values of a chart to the mouse, a finger or the keyboard: those of all points at the place nearest to the
// pointer. Without this script, the mouse alone can read them, from the tooltip of each point.
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
tip.setAttribute("role", "status"); // screen readers read its text aloud
document.body.append(tip);
let reading = null; // the chart whose values are shown

// Returns points by place (the second line of their tooltips), in the order of the arrow keys.
function placesOf(chart) {
  const places = new Map();
  for (const title of chart.querySelectorAll("use > title")) {
    const mark = title.parentNode;
    const [value, where] = title.textContent.split("\n");
    title.remove(); // one tooltip is enough
    const point = { mark, value, x: Number(mark.getAttribute("x")), y: Number(mark.getAttribute("y")) };
    if (!places.has(where)) places.set(where, { where, points: [] });
    places.get(where).points.push(point);
  }
  const along = chart.dataset.read === "y" ? "y" : "x";
  return [...places.values()].sort((a, b) => a.points[0][along] - b.points[0][along]);
}

function nearest(chart, places, event) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
  const across = { x: (point) => Math.abs(point.x - at.x), y: (point) => Math.abs(point.y - at.y), xy: (point) => Math.hypot(point.x - at.x, point.y - at.y) };
  const distance = (place) => Math.min(...place.points.map(across[chart.dataset.read]));
  return places.reduce((best, place, number) => (distance(place) < distance(places[best]) ? number : best), 0);
}

function show(chart, place) {
  hide();
  reading = chart;
  const head = document.createElement("p");
  head.textContent = place.where;
  tip.replaceChildren(head);
  for (const { mark, value } of place.points) {
    mark.classList.add("on");
    const line = document.createElement("div");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    const { stroke, fill } = getComputedStyle(mark);
    swatch.style.background = stroke === "none" ? fill : stroke;
    line.append(swatch, ` ${value}`);
    tip.append(line);
  }
  tip.hidden = false;
  const boxes = place.points.map(({ mark }) => mark.getBoundingClientRect());
  const middle = (Math.min(...boxes.map((box) => box.left)) + Math.max(...boxes.map((box) => box.right))) / 2;
  // Above the chart if it is read along x, so that the box hides no line; otherwise above the points.
  const above = chart.dataset.read === "x" ? chart.getBoundingClientRect().top + 16 : Math.min(...boxes.map((box) => box.top)) - 8;
  const top = above - tip.offsetHeight;
  const bottom = Math.max(...boxes.map((box) => box.bottom)) + 8;
  const left = Math.max(8, Math.min(middle - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 8));
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${(top < 4 ? bottom : top) + window.scrollY}px`;
}

function hide() {
  tip.hidden = true;
  if (reading) for (const mark of reading.querySelectorAll(".on")) mark.classList.remove("on");
  reading = null;
}

for (const chart of document.querySelectorAll("svg.chart")) {
  const places = placesOf(chart);
  let current = 0;
  const visit = (number) => {
    current = Math.max(0, Math.min(number, places.length - 1));
    show(chart, places[current]);
  };
  const point = (event) => visit(nearest(chart, places, event));
  chart.addEventListener("pointermove", point);
  chart.addEventListener("pointerdown", point);
  chart.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  chart.addEventListener("focus", () => chart.matches(":focus-visible") && visit(current));
  chart.addEventListener("blur", () => reading === chart && hide()); // a tap on another chart shows its values before this blur
  chart.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") hide();
    if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault(); // otherwise the page scrolls
    visit(current + steps[event.key]);
  });
}
document.addEventListener("pointerdown", (event) => event.target.closest("svg.chart") || hide());
