// What the widgets leave out: names for a screen reader (pictures, sliders, ▶ and ■), and a slider
// that stays in the reader's hand.
if (!window.idlLabNames) {
  const name = () => {
    for (const state of document.querySelectorAll(".idl-lab-state")) {
      const place = state.closest(".idl-lab-panel")
        ?? state.closest(".jp-OutputArea-child")?.nextElementSibling;
      place?.querySelector("img")?.setAttribute("alt", state.textContent);
    }
    for (const slider of document.querySelectorAll(".idl-lab-panel .widget-slider")) {
      const handle = slider.querySelector("[role=slider]");
      handle?.setAttribute("aria-label", slider.querySelector("label").textContent);
      // The slider's own text is 0.9899999999999999 where its readout says 0.99.
      handle?.setAttribute("aria-valuetext", slider.querySelector(".widget-readout").textContent);
    }
    for (const play of document.querySelectorAll(".idl-lab-panel .widget-play"))
      ["Play or pause", "Stop and go back to the first step"].forEach((text, k) => {
        play.children[k].title = text;
        play.children[k].setAttribute("aria-label", text);
      });
  };
  window.idlLabNames = new MutationObserver(name);
  window.idlLabNames.observe(document.body, { childList: true, subtree: true });
  name();
  // In a list of choices JupyterLab takes the arrows for the way to the next cell, and r for a raw
  // one. Keys pressed with Ctrl stay its own.
  window.addEventListener("keydown", event => {
    const own = !event.ctrlKey && !event.metaKey && !event.altKey;
    event.target.closest?.(".idl-lab-panel select")
      ?.toggleAttribute("data-lm-suppress-shortcuts", own);
  }, true);
  // JupyterLab scrolls to a cell that is pressed. If that brings a picture under the pointer, the
  // browser drags the picture and lets the slider go.
  window.addEventListener("dragstart", event => {
    if (document.querySelector(".idl-lab-panel .noUi-active")) event.preventDefault();
  }, true);
}
