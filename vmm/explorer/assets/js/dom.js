// Making elements. Text only ever becomes text: nothing here reads markup.

/** An element: `h('p.note', {title: '…'}, 'text', child)`. */
function h(name, attributes, ...children) {
  return build(document.createElement(name.split('.')[0]), name, attributes, children);
}

/** The same for drawings. */
function svg(name, attributes, ...children) {
  return build(document.createElementNS('http://www.w3.org/2000/svg', name.split('.')[0]), name, attributes, children);
}

function build(element, name, attributes, children) {
  const classes = name.split('.').slice(1);
  if (classes.length) element.setAttribute('class', classes.join(' '));
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets an attribute only where that changes something. */
function set(element, key, value) {
  if (value === null || value === false) {
    if (element.hasAttribute(key)) element.removeAttribute(key);
  } else if (element.getAttribute(key) !== String(value)) {
    element.setAttribute(key, value);
  }
}

const $ = (id) => document.getElementById(id);

/** `1 page`, `2 pages`. */
function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString('en')} ${number === 1 ? one : many}`;
}

/** Scrolls a list so that an element is seen, without moving the page. */
function reveal(list, element) {
  const [outer, inner] = [list.getBoundingClientRect(), element.getBoundingClientRect()];
  if (inner.top < outer.top) list.scrollTop -= outer.top - inner.top + 8;
  else if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom + 8;
}
