(() => {
  const dialog = document.getElementById('zoom');
  const large = dialog.querySelector('img');
  const words = dialog.querySelector('figcaption');
  const buttons = [...document.querySelectorAll('button.zoom')];
  let current = 0;
  const show = index => {
    current = (index + buttons.length) % buttons.length;
    const small = buttons[current].querySelector('img');
    large.src = small.src;
    large.alt = small.alt;
    large.className = small.className;
    words.textContent = buttons[current].dataset.words;
  };
  buttons.forEach((button, index) => button.addEventListener('click', () => { show(index); dialog.showModal(); }));
  dialog.addEventListener('click', event => {
    const turn = event.target.dataset ? event.target.dataset.turn : undefined;
    if (turn === '0' || event.target === dialog) dialog.close();
    else if (turn) show(current + Number(turn));
  });
  dialog.addEventListener('keydown', event => {
    if (event.key === 'ArrowLeft') show(current - 1);
    if (event.key === 'ArrowRight') show(current + 1);
  });
  dialog.addEventListener('close', () => buttons[current].focus());
})();
