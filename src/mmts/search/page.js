"use strict";
// Text is asked for by the form alone; this sends a picture that was chosen, dropped or pasted, and shows the answer.
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
  if (file.size > Number(place.dataset.limit)) return show(`${file.name} is larger than the ${place.dataset.limit / 2 ** 20} MiB that are taken`);
  main.classList.add("busy");
  try {
    const response = await fetch("/file", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    const answer = await response.text();
    if (!response.headers.get("Content-Type").startsWith("text/html")) return show(answer);
    main.innerHTML = answer; // escaped by the server, and the page's policy runs no script in it
    if (response.ok && file.type.startsWith("image/")) {
      const picture = document.createElement("img");
      picture.className = "asked";
      picture.alt = "the picture that was asked for";
      picture.src = URL.createObjectURL(file);
      picture.onload = () => URL.revokeObjectURL(picture.src);
      main.prepend(picture);
    }
    document.querySelector("#q").value = "";
  } catch {
    show("the server cannot be reached; is mmts search --serve still running?");
  } finally {
    main.classList.remove("busy");
  }
}

// The longer list is fetched and what is new in it put below, so that nobody loses their place; the address is its own.
async function showMore(link) {
  main.classList.add("busy");
  try {
    const page = new DOMParser().parseFromString(await (await fetch(link.href)).text(), "text/html");
    const fresh = [...page.querySelectorAll("main li")].filter((each) => !document.getElementById(each.id));
    main.querySelector("ol").append(...fresh);
    main.querySelector(".found").replaceWith(page.querySelector(".found"));
    const next = page.querySelector(".more");
    history.replaceState(null, "", link.pathname + link.search);
    if (next) link.replaceWith(next);
    else link.remove();
    fresh[0]?.querySelector("a")?.focus({ preventScroll: true });
  } catch {
    location.href = link.href; // the browser says what is wrong
  } finally {
    main.classList.remove("busy");
  }
}

function lost(picture) {
  const place = document.createElement("div");
  place.className = "none";
  place.textContent = "cannot be read any more";
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
