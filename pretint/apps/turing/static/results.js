// Copies the link; if the browser does not allow it, the user can select the link.
const link = document.getElementById("link");
const copy = document.getElementById("copy");
link.addEventListener("focus", () => link.select());
if (navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(link.value);
    copy.textContent = "Copied";
  });
}
