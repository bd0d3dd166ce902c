"""The page of a served router in a real browser: typed into, turned, and looked at."""

import pytest

pytest.importorskip('uvicorn')
from elang.messages import Limits, Reading
from elang.paths import QuantilePath
from elang.routing import Router

MARKUP = '<script>document.title = "taken"</script><img src=x onerror="document.title = 1">'
EXAMPLES = [{'inputs': text} for text in ('a', 'four', MARKUP, 'مرحبا')]
LIMITS = Limits(inputs=6, letters=200, body_bytes=2000)


@pytest.fixture(scope='module')
def client(served, make_router):
  """Asks one that answers texts of three letters or more backwards, and others in capitals."""
  with served(make_router(), limits=LIMITS, examples=EXAMPLES) as client:
    yield client


def opened(browser, client):
  """The page, just opened in a wide window."""
  browser.look(1100)
  browser.call('Page.navigate', url=f'http://{client.host}/')
  browser.wait("document.querySelector('textarea')")
  return browser


@pytest.fixture
def page(browser, client):
  """The page of a router of two models."""
  return opened(browser, client)


def text_of(selector):
  return f"document.querySelector('{selector}').textContent"


def shares(page, expected):
  """Waits until the page tells these shares."""
  page.wait(f"{text_of('#shares')} === '{expected}'")


def test_a_typed_input_is_answered_and_the_knob_changes_the_model_and_the_share(page):
  page.type('tree')
  assert page.value(text_of('.prediction')) == 'eert'
  assert page.value(text_of('.model')) == 'swift'
  assert 'score 4 ≥\u00a03 · 1e6\u00a0FLOPs' in page.value(text_of('#answers .facts'))
  assert page.value(text_of('#shares')) == 'swift: 1 of 1 (100 %)super: 0 of 1 (0 %)'
  page.type('be')
  assert page.value(text_of('.prediction')) == 'BE'
  assert "super · swift's score 2 <\u00a03 · 1e9" in page.value(text_of('#answers .facts'))
  shares(page, 'swift: 1 of 2 (50 %)super: 1 of 2 (50 %)')
  page.focus('#knob')
  page.press('End')
  shares(page, 'swift: 0 of 2 (0 %)super: 2 of 2 (100 %)')
  assert page.value(text_of('#setting')) == 'all passed on'
  assert page.value("[...document.querySelectorAll('.prediction')].map(p => p.textContent)") == [
    'BE',
    'TREE',
  ]
  page.press('Home')
  shares(page, 'swift: 2 of 2 (100 %)super: 0 of 2 (0 %)')
  assert page.value("document.getElementById('knob').getAttribute('aria-valuetext')") == 'all kept'
  assert 'On average 1e6 FLOPs' in page.value(text_of('#costs'))
  assert page.value(text_of('#status')) == 'swift answers the latest; ' + ', '.join(
    ('swift: 2 of 2 (100 %)', 'super: 0 of 2 (0 %)')
  )


def test_the_threshold_can_be_typed(page):
  page.type('tree')
  page.value("document.getElementById('exact').select()")
  page.focus('#exact')
  page.call('Input.insertText', text='4.5')
  page.press('Enter')
  shares(page, 'swift: 0 of 1 (0 %)super: 1 of 1 (100 %)')
  assert page.value("document.getElementById('knob').valueAsNumber") == 4.5


def test_one_knob_moves_several_models_along_their_path(browser, served, models):
  router = Router(models, path=QuantilePath([[-7, 0, 5]] * 2))
  reading = Reading('{first} {second}')
  with served(router, reading=reading, examples=[{'first': 'the', 'second': 'best'}]) as client:
    page = opened(browser, client)
    page.focus('#all')
    page.press('Enter')
    shares(page, 'small: 0 of 1 (0 %)middle: 0 of 1 (0 %)large: 1 of 1 (100 %)')
    assert 'not asked for a score' in page.value(text_of('#answers .facts'))
    texts = "[...document.querySelectorAll('#answers .text')].map(p => p.textContent)"
    assert page.value(texts) == ['first: the', 'second: best']
    page.focus('#knob')
    page.press('Home')
    shares(page, 'small: 1 of 1 (100 %)middle: 0 of 1 (0 %)large: 0 of 1 (0 %)')
    page.press('ArrowRight')
    assert 0 < page.value("document.getElementById('knob').valueAsNumber") <= 0.1


def test_inputs_are_picked_and_taken_away(page):
  assert page.value("document.getElementById('pick').options.length") == 1 + len(EXAMPLES)
  page.focus('#all')
  page.press('Enter')
  shares(page, 'swift: 3 of 4 (75 %)super: 1 of 4 (25 %)')
  page.focus('#answers li button')
  page.press('Enter')
  shares(page, 'swift: 3 of 3 (100 %)super: 0 of 3 (0 %)')
  page.focus('#clear')
  page.press('Enter')
  shares(page, 'swift: none yetsuper: none yet')
  assert page.value(text_of('#none')) == 'Nothing was asked yet.'


def test_texts_are_shown_as_they_are_and_run_nothing(page):
  title = page.value('document.title')
  page.type(MARKUP)
  page.focus('#all')
  page.press('Enter')
  page.wait("document.querySelectorAll('#answers li').length === 5")
  assert page.value(text_of('#answers li:last-child .text')) == MARKUP
  assert page.value(text_of('#answers li:last-child .prediction')) == MARKUP[::-1]
  assert page.value("document.querySelectorAll('main script, main img').length") == 0
  assert page.value('document.title') == title == 'swift, super · E-LANG'
  texts = '[...document.querySelectorAll(\'textarea, option:not([value=""]), .text, .prediction\')]'
  assert page.value(f"{texts}.every(one => one.dir === 'auto' && one.lang === '')")
  assert (
    page.value(
      "getComputedStyle(document.querySelector('#answers li:nth-child(4) .text')).direction"
    )
    == 'rtl'
  )


def test_what_goes_wrong_is_said_and_the_page_goes_on(page):
  page.type('tree')
  page.focus('#knob')
  page.press('End')
  shares(page, 'swift: 0 of 1 (0 %)super: 1 of 1 (100 %)')
  page.type('break', until=f"{text_of('#problem')}.includes('out of memory')")
  page.type('be')
  assert page.value(text_of('#problem')) == ''
  shares(page, 'swift: 0 of 2 (0 %)super: 2 of 2 (100 %)')


def test_no_more_inputs_are_kept_than_may_be_asked_at_a_time(page):
  for number in range(8):
    page.type(f'number {number}')
  shares(page, 'swift: 6 of 6 (100 %)super: 0 of 6 (0 %)')


def test_only_the_page_and_its_files_are_requested(page, client):
  page.type('tree')
  asked = page.value("performance.getEntriesByType('resource').map(entry => entry.name)")
  own = {
    f'http://{client.host}{path}' for path in ('/page.css', '/page.js', '/view.js', '/api/router')
  }
  assert {*asked} == {*own, f'http://{client.host}/api/answer'}


@pytest.mark.parametrize(
  ('scheme', 'paper'), [('light', 'rgb(255, 255, 255)'), ('dark', 'rgb(23, 24, 26)')]
)
@pytest.mark.parametrize('width', [1100, 400])
def test_it_is_light_or_dark_and_no_wider_than_the_window(page, width, scheme, paper):
  page.look(width, scheme)
  page.type('tree ' + 'x' * 150)
  assert page.value('getComputedStyle(document.body).backgroundColor') == paper
  assert page.value('document.documentElement.scrollWidth') <= width
  ends = "[...document.querySelectorAll('main *')].map(e => e.getBoundingClientRect().right)"
  assert max(page.value(ends)) <= width


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(page):
  page.type('tree')
  names = []
  page.focus('textarea')
  for _ in range(8):
    node = page.call('Runtime.evaluate', expression='document.activeElement')['result']['objectId']
    found = page.call('Accessibility.getPartialAXTree', objectId=node, fetchRelatives=False)
    names.append(found['nodes'][0]['name']['value'])
    page.press('Tab')
  assert names == [
    'Your text',
    'Answer',
    'or pick',
    'all 4',
    'Threshold',
    'exactly',
    'Clear',
    'Remove input 1',
  ]
