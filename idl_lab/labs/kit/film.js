for (const film of document.querySelectorAll(".idl-lab-film:not([data-moves])")) {
  film.dataset.moves = "";
  const { controls, pictures, frames } =
    JSON.parse(film.querySelector("script[type='application/json']").textContent);
  const image = film.querySelector("img"), words = film.querySelector("[role=status]");
  const sources = [image.src, ...pictures.map(bytes => "data:image/png;base64," + bytes)];
  let now = frames[0];

  const parts = controls.map((control, k) => {
    const label = document.createElement("label"), said = document.createElement("output");
    label.append(control.label + " ");
    let input = null;  // a control with one value is a word
    if (control.values.length > 1 && !control.slider) {
      input = document.createElement("select");
      input.append(...control.values.map((value, at) => new Option(value, at)));
    } else if (control.values.length > 1) {
      input = document.createElement("input");
      Object.assign(input, { type: "range", min: 0, max: control.values.length - 1, step: 1 });
      said.setAttribute("aria-hidden", "true");  // the slider itself says it
    }
    if (input) {
      // So that a page that is loaded again shows the picture that its controls name.
      input.autocomplete = "off";
      input.addEventListener("input", () => move(k, Number(input.value)));
      // Said once a control rests, not at every step of a drag.
      input.addEventListener("change", () => { words.textContent = now.words; });
      label.append(input);
    }
    if (!input || input.type === "range") label.append(said);
    film.querySelector(".idl-lab-film-controls").append(label);
    return { input, said, values: control.values };
  });

  const all = controls.reduce((count, control) => count * control.values.length, 1);
  const note = frames.length < 2 ? "A picture made beforehand: with a kernel this panel moves."
    : "Pictures made beforehand." + (frames.length < all
      ? " A control that is moved may bring others back to where they stood." : "");

  // Of the pictures with that control there, the one that leaves most of the others alone.
  const move = (k, place) => {
    const kept = frame => frame.at.filter((at, j) => at === now.at[j]).length;
    now = frames.filter(frame => frame.at[k] === place)
      .reduce((best, frame) => kept(frame) > kept(best) ? frame : best);
    show();
  };
  const show = () => {
    if (now.picture !== null) image.src = sources[now.picture];
    image.hidden = now.picture === null;  // that setting failed
    image.alt = now.words;
    film.querySelector("figcaption").textContent = image.hidden ? now.words : note;
    parts.forEach(({ input, said, values }, j) => {
      said.textContent = values[now.at[j]];
      if (!input) return;
      input.value = now.at[j];
      if (input.type === "range") input.setAttribute("aria-valuetext", values[now.at[j]]);
    });
  };
  show();

  // Letters paler than half: the page is dark, whoever made it so.
  const shade = () => {
    const [r, g, b] = getComputedStyle(film).color.match(/[\d.]+/g).map(Number);
    film.classList.toggle("idl-lab-dark", 0.3 * r + 0.59 * g + 0.11 * b > 128);
  };
  shade();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", shade);
  const themes = new MutationObserver(shade);
  for (const root of [document.documentElement, document.body])
    themes.observe(root, { attributes: true });
}
