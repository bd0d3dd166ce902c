// What the page shows of its state; it asks for nothing. Texts of people and models are only ever set
// as text.

export const ALL_KEPT = '-inf';
// No score is as high, so that all is passed on; but unlike null it has models asked for scores.
export const NONE_KEPT = Number.MAX_VALUE;

export const at = id => document.getElementById(id);
export const state = {
  router: null,
  inputs: [], // The latest first; each is an object of texts by field.
  answers: [], // Of the first of them.
  threshold: NONE_KEPT,
  ends: [0, 1], // Of the knob.
  busy: false,
  again: false, // Whether something changed since the question in flight was asked.
  remove: null, // Takes away an input, by its number.
};

export function make(tag, kind, text) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  return element;
}

// What somebody wrote, in whatever language and direction that is.
export function written(tag, kind, text) {
  const element = make(tag, kind, text);
  element.dir = 'auto';
  element.lang = '';
  return element;
}

function number(value, digits = 3) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  const rounded = Number(value.toPrecision(digits));
  if (size >= 1e-3 && size < 1e6) return String(rounded);
  return rounded.toExponential().replace('e+', 'e');
}

function seconds(value) {
  return value < 1 ? `${number(value * 1000, 2)}\u00a0ms` : `${number(value, 2)}\u00a0s`;
}

function modelKind(name) {
  return `model-${(state.router.models.indexOf(name) % 5) + 1}`;
}

function scoresOf(answer) {
  return Object.values(answer.scores).filter(score => score !== null);
}

export function finite(threshold) {
  return typeof threshold === 'number' && threshold !== NONE_KEPT;
}

// The knob runs a little beyond all scores that there are, and further only for a threshold that was
// typed: where it is dragged, its ends stay.
function setEnds() {
  const scores = state.router.path ? [] : state.answers.flatMap(scoresOf);
  if (scores.length) {
    const [low, high] = [Math.min(...scores), Math.max(...scores)];
    const margin = (high - low) * 0.08 || Math.abs(high) * 0.5 || 0.5;
    state.ends = [low - margin, high + margin];
  }
  let [low, high] = state.ends;
  if (finite(state.threshold)) {
    if (state.threshold < low) low = state.threshold - (high - low) * 0.08;
    if (state.threshold > high) high = state.threshold + (high - low) * 0.08;
  }
  state.ends = [low, high];
  const knob = at('knob');
  [knob.min, knob.max] = [low, high];
  if (finite(state.threshold)) knob.value = state.threshold;
  else knob.value = state.threshold === ALL_KEPT ? low : high;
}

function place(value) {
  const [low, high] = state.ends;
  return `${(100 * (value - low)) / (high - low)}%`;
}

function settingInWords() {
  if (finite(state.threshold)) return '';
  if (state.threshold === ALL_KEPT) return 'all kept';
  return Array.isArray(state.threshold) ? 'as the server was started' : 'all passed on';
}

export function showKnob() {
  const words = settingInWords();
  at('setting').textContent = words;
  at('knob').setAttribute('aria-valuetext', words || number(state.threshold, 4));
  if (document.activeElement !== at('exact')) {
    at('exact').value = finite(state.threshold) ? Number(state.threshold.toPrecision(6)) : '';
  }
  const first = state.router.models[0];
  const dots = state.router.path ? [] : state.answers.filter(one => one.scores[first] !== null);
  const marks = dots.map(answer => {
    const dot = make('i', modelKind(answer.model));
    dot.style.left = place(answer.scores[first]);
    return dot;
  });
  if (finite(state.threshold)) {
    const line = make('i', 'line');
    line.style.left = place(state.threshold);
    marks.push(line);
  }
  at('strip').replaceChildren(...marks);
}

function mean(name) {
  const values = state.answers.map(answer => answer[name]);
  if (!values.length || values.includes(null)) return null;
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function showShares() {
  const total = state.answers.length;
  const parts = [];
  const items = state.router.models.map(name => {
    const count = state.answers.filter(answer => answer.model === name).length;
    const part = make('i', modelKind(name));
    part.style.width = total ? `${(100 * count) / total}%` : '0';
    parts.push(part);
    const item = make('li', '', '');
    const share = total ? `${count} of ${total} (${Math.round((100 * count) / total)} %)` : 'none yet';
    item.append(make('span', `dot ${modelKind(name)}`), `${name}: ${share}`);
    return item;
  });
  at('bar').replaceChildren(...parts);
  at('shares').replaceChildren(...items);
  const [flops, time] = [mean('flops'), mean('seconds')];
  const costs = [];
  if (flops !== null) costs.push(`${number(flops)} FLOPs`);
  if (time !== null) costs.push(seconds(time));
  at('costs').textContent = costs.length ? `On average ${costs.join(', ')} per input.` : '';
  return items.map(item => item.textContent).join(', ');
}

// "swift's score 0.2 < 0.5" for each model that was asked.
function facts(answer) {
  const asked = Object.entries(answer.scores).filter(([, score]) => score !== null);
  const said = asked.map(([name, score]) => {
    const threshold = answer.thresholds[name];
    const limit = finite(threshold)
      ? ` ${name === answer.model ? '≥' : '<'}\u00a0${number(threshold)}`
      : '';
    return `${name}'s score ${number(score)}${limit}`;
  });
  if (!said.length) said.push('not asked for a score');
  if (answer.flops !== null) said.push(`${number(answer.flops)}\u00a0FLOPs`);
  if (answer.seconds !== null) said.push(seconds(answer.seconds));
  return said.join(' · ');
}

// A paragraph for each field, with its name if there are several.
function texts(input) {
  const named = Object.entries(input);
  if (named.length === 1) return [written('p', 'text', named[0][1])];
  return named.map(([name, text]) => {
    const paragraph = make('p', 'text', `${name}: `);
    paragraph.append(written('bdi', '', text));
    return paragraph;
  });
}

function card(answer, index) {
  const item = make('li');
  const model = make('p', 'facts');
  model.append(make('span', `dot ${modelKind(answer.model)}`), make('b', 'model', answer.model));
  model.append(` · ${facts(answer)}`);
  const button = make('button', '', '×');
  button.type = 'button';
  button.setAttribute('aria-label', `Remove input ${index + 1}`);
  button.addEventListener('click', () => state.remove(index));
  item.append(...texts(answer.input), button);
  item.append(written('p', 'prediction', answer.prediction), model);
  return item;
}

export function show() {
  setEnds();
  showKnob();
  const shares = showShares();
  const some = state.answers.length > 0;
  at('none').hidden = some;
  at('clear').hidden = !some;
  at('answers').replaceChildren(...state.answers.map(card));
  at('status').textContent = some ? `${state.answers[0].model} answers the latest; ${shares}` : '';
}
