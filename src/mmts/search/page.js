"use strict";
// The form alone searches by text. This script sends a picture that is chosen, dropped or pasted, and opens the address of the answer.
const place = document.querySelector(".file");
const input = document.querySelector("#file");
const main = document.querySelector("main");

function show(problem) {
  const line = document.createElement("p");
  line.className = "problem";
  line.textContent = problem;
  main.replaceChildren(line);
}

async function ask(file) {
  if (file.size > Number(place.dataset.limit)) return show(`${file.name} is larger than the limit of ${place.dataset.limit / 2 ** 20} MiB`);
  main.classList.add("busy");
  try {
    const response = await fetch(`/file${location.search}`, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    const answer = await response.text();
    if (response.ok) location.assign(answer);
    else show(answer);
  } catch {
    show("The server does not answer. Is `mmts search --serve` still running?");
  } finally {
    main.classList.remove("busy");
  }
}

// Fetch the longer list and append its new items, so that the reader keeps the place; the address names the longer list.
async function showMore(link) {
  main.classList.add("busy");
  try {
    const page = new DOMParser().parseFromString(await (await fetch(link.href)).text(), "text/html");
    const fresh = [...page.querySelectorAll("main li")].filter((item) => !document.getElementById(item.id));
    main.querySelector("ol").append(...fresh);
    main.querySelector(".summary").replaceWith(page.querySelector(".summary"));
    const next = page.querySelector(".more");
    history.replaceState(null, "", link.pathname + link.search);
    if (next) link.replaceWith(next);
    else link.remove();
    fresh[0]?.querySelector("a")?.focus({ preventScroll: true });
  } catch {
    location.href = link.href; // the browser shows the error
  } finally {
    main.classList.remove("busy");
  }
}

function lost(picture) {
  const place = document.createElement("div");
  place.className = "none";
  place.textContent = "can no longer be read";
  (picture.closest("a") ?? picture).replaceWith(place);
}

main.addEventListener("click", (event) => {
  if (!event.target.matches(".more") || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  showMore(event.target);
});
main.addEventListener("error", (event) => event.target.matches("li img") && lost(event.target), true);
for (const picture of main.querySelectorAll("li img")) if (picture.complete && !picture.naturalWidth) lost(picture);

if (place) {
  place.hidden = false;
  input.addEventListener("change", () => {
    if (input.files.length) ask(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    if (event.dataTransfer.files.length) ask(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) ask(event.clipboardData.files[0]);
  });
}
