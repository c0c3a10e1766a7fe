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
