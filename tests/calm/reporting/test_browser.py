"""The page in a real browser: drawn, in light and dark, and without a request."""

import json
import re
import subprocess

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from calm.reporting import examples, figures

WIDTH, NARROW = 1000, 400
SCHEMES = {'light': (1, '#ffffff'), 'dark': (0, '#17181a')}  # Blink's number, the paper's colour.
# Writes what the browser made of the page where --dump-dom shows it.
SCRIPT = """<script>
addEventListener('load', () => {
  const boxes = selector => [...document.querySelectorAll(selector)].map(element => {
    const box = element.getBoundingClientRect();
    return [Math.round(box.width), Math.round(box.height)];
  });
  const found = {
    figures: boxes('svg[role=img]'),
    curves: boxes('svg g[id*=line2d] path'),
    tokens: boxes('.token'),
    letters: boxes('svg[role=img] text'),
    requests: performance.getEntriesByType('resource').map(entry => entry.name),
    width: document.documentElement.scrollWidth,
    right: Math.max(...[...document.querySelectorAll('main *:not(.wide *, pre)')]
      .map(element => element.getBoundingClientRect().right)),
    height: document.documentElement.scrollHeight,
  };
  document.body.insertAdjacentHTML('beforeend', '<pre id="found"></pre>');
  document.getElementById('found').textContent = JSON.stringify(found);
});
</script>"""


@pytest.fixture(scope='module')
def browse(chromium):
  """What Chromium prints of a page."""

  def run(path, profile, *flags):
    alike = ('--hide-scrollbars', '--force-color-profile=srgb', f'--user-data-dir={profile}')
    command = [*chromium, *alike, *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout

  return run


@pytest.fixture(scope='module')
def found(browse, reported, tmp_path_factory):
  """What there is in a wide window."""
  return find(browse, reported, tmp_path_factory, WIDTH)


def find(browse, reported, tmp_path_factory, width):
  """What a script that is let into a copy of the page finds there."""
  folder = tmp_path_factory.mktemp('found')
  text = reported.read_text(encoding='utf-8')
  text, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', '', text)
  assert removed == 1
  copy = folder / 'copy.html'
  # Chromium's own windows are at least 500 wide.
  style = f'<style>html {{ width: {width}px }}</style>'
  copy.write_text(text.replace('</body>', style + SCRIPT + '</body>'), encoding='utf-8')
  dom = browse(copy, folder / 'profile', '--dump-dom', f'--window-size={width},2000')
  return json.loads(re.search(r'<pre id="found">({.*?)</pre>', dom, flags=re.DOTALL).group(1))


def test_figures_and_tokens_have_a_size(found):
  assert len(found['figures']) == 4
  assert all(width > 300 and height > 150 for width, height in found['figures'])
  assert any(width > 100 for width, _ in found['curves'])
  assert found['tokens']
  assert all(width > 4 and height > 10 for width, height in found['tokens'])


def test_the_page_is_no_wider_than_the_window(found):
  assert found['width'] <= WIDTH


def test_a_narrow_window_shows_all_and_letters_of_figures_can_be_read(
  browse, reported, tmp_path_factory
):
  narrow = find(browse, reported, tmp_path_factory, NARROW)
  assert narrow['right'] <= NARROW
  assert narrow['letters']
  assert all(max(height, width) >= 9 for width, height in narrow['letters'])


def test_nothing_is_requested(found):
  assert found['requests'] == []


@pytest.mark.parametrize('scheme', sorted(SCHEMES))
def test_colours_are_those_of_the_scheme(browse, reported, found, tmp_path, scheme):
  number, paper = SCHEMES[scheme]
  picture = tmp_path / 'page.png'
  browse(
    reported,
    tmp_path / 'profile',
    f'--screenshot={picture}',
    f'--window-size={WIDTH},{found["height"]}',
    f'--blink-settings=preferredColorScheme={number}',
  )
  pixels = np.round(matplotlib.image.imread(picture)[..., :3] * 255).astype(int)

  def count(colour):
    wanted = np.round(np.array(to_rgb(colour)) * 255).astype(int)
    return (np.abs(pixels - wanted).max(-1) <= 1).sum()

  assert count(paper) > 0.5 * pixels.shape[0] * pixels.shape[1]
  series = figures.COLOURS['--series-1']
  here, elsewhere = series if scheme == 'light' else series[::-1]
  assert count(here) > 200
  assert count(elsewhere) == 0
  for background, _ in examples.layer_colours(2):
    assert count(background) > 100
