// Light or dark: the system's wish, unless the reader chose. Runs before the page is painted, so that nothing flashes.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  function stored() {
    try {
      return localStorage.getItem("groma-theme");
    } catch {
      return null; // storage is switched off
    }
  }

  function store(theme) {
    try {
      if (theme) localStorage.setItem("groma-theme", theme);
      else localStorage.removeItem("groma-theme");
    } catch {
      // it holds until the page is closed
    }
  }

  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

  function applyStored() {
    const chosen = stored();
    if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
    else delete root.dataset.theme; // as the system wants it
  }

  applyStored();
  addEventListener("storage", applyStored); // another tab chose

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    if (!button) return; // the API's page has none
    const show = () => {
      button.setAttribute("aria-pressed", String(isDark()));
      button.querySelector("use").setAttribute("href", isDark() ? "#i-sun" : "#i-moon");
    };
    button.addEventListener("click", () => {
      const next = isDark() ? "light" : "dark";
      const isSystems = next === (system.matches ? "dark" : "light");
      if (isSystems)
        delete root.dataset.theme;
      else root.dataset.theme = next;
      store(isSystems ? null : next);
      show();
    });
    system.addEventListener("change", show);
    addEventListener("storage", show);
    show();
  });
})();
