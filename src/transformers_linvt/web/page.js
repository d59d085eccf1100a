// Seeks to what is clicked on the time line, and lays the map of the frame that is shown over the player.
(() => {
  const clip = () => document.querySelector("#lv-clip video");
  const wanted = () => document.querySelector("#lv-places input[type=checkbox]")?.checked ?? false;

  document.addEventListener("click", (event) => {
    const target = event.target.closest?.("[data-seek]");
    const video = clip();
    if (!target || !video) return;
    video.pause();
    video.currentTime = Number(target.dataset.seek);
    for (const one of document.querySelectorAll(".lv-moments button")) one.removeAttribute("aria-current");
    if (target.tagName === "BUTTON") target.setAttribute("aria-current", "true");
  });

  // the part of the player's box that the picture fills
  const box = (video) => {
    const around = video.getBoundingClientRect();
    const scale = Math.min(around.width / video.videoWidth, around.height / video.videoHeight);
    const width = video.videoWidth * scale, height = video.videoHeight * scale;
    return {
      left: around.left + scrollX + (around.width - width) / 2,
      top: around.top + scrollY + (around.height - height) / 2,
      width, height,
    };
  };

  let from = null, told = "";
  const overlay = () => {
    let picture = document.getElementById("lv-overlay");
    if (!picture) {
      picture = document.createElement("img");
      picture.id = "lv-overlay";
      picture.alt = "";
      document.body.append(picture);
    }
    return picture;
  };

  const draw = () => {
    const video = clip(), holder = document.querySelector(".lv-maps"), picture = overlay();
    if (holder && holder.dataset.maps !== told) {
      told = holder.dataset.maps;
      from = JSON.parse(told);
    }
    if (!video || !video.videoWidth || !holder || !from || !wanted()) {
      picture.hidden = true;
      picture.style.display = "none";
      return;
    }
    let index = 0;
    while (index + 1 < from.times.length && from.times[index + 1] <= video.currentTime + 1e-4) index += 1;
    if (picture.dataset.index !== String(index) || picture.dataset.of !== String(told.length)) {
      picture.src = from.maps[index];
      picture.dataset.index = index;
      picture.dataset.of = told.length;
    }
    const at = box(video), [top, left, bottom, right] = from.region;
    Object.assign(picture.style, {
      display: "block",
      left: `${at.left + left * at.width}px`, top: `${at.top + top * at.height}px`,
      width: `${(right - left) * at.width}px`, height: `${(bottom - top) * at.height}px`,
    });
    picture.hidden = false;
  };
  setInterval(draw, 100);
})();
