// Puts the slides together, and goes from one to the next.

/** How many lines of what was found are shown; of more, one line has the number of the rest. */
const MAX_FACTS = 4;

function facts(title, lines) {
  if (!lines.length) return null;
  const shown = lines.length > MAX_FACTS ? lines.slice(0, MAX_FACTS - 1) : lines;
  const more = lines.length - shown.length;
  return h('div.facts', {}, h('h3', {}, title), h('ul', {}, shown.map((line) => h('li', { title: line }, line)), more > 0 && h('li.more', {}, `and ${more} more`)));
}

function titleSlide(deck) {
  return h(
    'section.slide.first',
    { 'aria-label': deck.title },
    h('p.course', {}, deck.course),
    h('h1', {}, deck.title),
    h('p.author', {}, deck.author),
    h('p.sum', {}, deck.verdict),
    h('ol.contents', {}, deck.slides.map((slide, at) => h('li', {}, h('a', { href: `#${at + 1}` }, h('span.number', {}, `${slide.number}`), h('span.text', {}, slide.claim), h('span.verdict', { 'data-holds': `${slide.holds}` }, slide.verdict))))),
  );
}

function claimSlide(slide) {
  const figure = slide.picture && h('figure', {});
  return [
    h(
      'section.slide',
      { 'aria-label': `Claim ${slide.number}` },
      h('header', {}, h('p.title', {}, slide.title), h('p.verdict', { 'data-holds': `${slide.holds}` }, slide.verdict)),
      h('h2', {}, h('span.number', {}, `${slide.number}`), slide.claim),
      h('p.explanation', {}, slide.explanation),
      figure,
      h('div.found', {}, slide.objections.length ? facts('What speaks against it', slide.objections) : facts('What the tables showed', slide.tables), facts('What the CPU did', slide.cpu)),
    ),
    figure,
  ];
}

class Deck {
  constructor(slides) {
    this.slides = slides;
    this.at = 0;
    addEventListener('hashchange', () => this.fromHash());
    $('back').addEventListener('click', () => this.go(this.at - 1));
    $('forward').addEventListener('click', () => this.go(this.at + 1));
    document.addEventListener('keydown', (event) => this.key(event));
    this.fromHash();
  }

  fromHash() {
    const wanted = Number(location.hash.slice(1));
    this.go(Number.isInteger(wanted) ? wanted : 0);
  }

  go(wanted) {
    const last = this.slides.length - 1;
    this.at = Math.min(Math.max(wanted, 0), last);
    for (const [number, slide] of this.slides.entries()) slide.classList.toggle('current', number === this.at);
    $('position').textContent = `${this.at + 1} / ${this.slides.length}`;
    $('back').disabled = this.at === 0;
    $('forward').disabled = this.at === last;
    if (location.hash !== `#${this.at}`) history.replaceState(null, '', `#${this.at}`);
    scrollTo(0, 0);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      ArrowRight: () => this.go(this.at + 1),
      ArrowDown: () => this.go(this.at + 1),
      PageDown: () => this.go(this.at + 1),
      ' ': () => this.go(this.at + (event.shiftKey ? -1 : 1)),
      ArrowLeft: () => this.go(this.at - 1),
      ArrowUp: () => this.go(this.at - 1),
      PageUp: () => this.go(this.at - 1),
      Home: () => this.go(0),
      End: () => this.go(this.slides.length - 1),
      t: () => $('theme').click(),
    }[event.key];
    // A button that has the focus is pressed by the space bar.
    if (!act || (event.key === ' ' && event.target.matches('button, a'))) return;
    event.preventDefault();
    act();
  }
}

/** `light` or `dark`, chosen by hand; else the system decides. */
function slideTheme() {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const root = document.documentElement;
  const next = () => ((root.dataset.theme ?? (dark.matches ? 'dark' : 'light')) === 'dark' ? 'light' : 'dark');
  const show = () => {
    set($('theme'), 'aria-label', `Switch to ${next()} colours`);
    $('theme').textContent = next() === 'light' ? '☀' : '☾';
  };
  $('theme').addEventListener('click', () => {
    root.dataset.theme = next();
    show();
  });
  dark.addEventListener('change', show);
  show();
}

async function start() {
  const data = JSON.parse($('data').textContent);
  const made = data.slides.map(claimSlide);
  const slides = data.slides.length > 1 ? [titleSlide(data)] : [];
  slides.push(...made.map(([slide]) => slide));
  $('deck').replaceChildren(...slides);
  const deck = new Deck(slides);
  slideTheme();
  const pictures = [];
  for (const [number, [, figure]] of made.entries()) {
    pictures.push(figure ? await drawPicture(data.slides[number].picture, figure) : null);
  }
  window.lecture = { data, deck, pictures };
  document.documentElement.dataset.ready = Math.round(performance.now());
}

start().catch((error) => {
  $('failed').hidden = false;
  $('failed').textContent = `This page could not read its own data: ${error.message}`;
  throw error;
});
