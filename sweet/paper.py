"""What the paper reports, to be shown beside what is found here.

Rotem et al., Tables 1, 3 and 4, https://arxiv.org/abs/2306.02307: scores of the classifiers alone,
mean and standard deviation over three seeds, averaged over seven tasks.
"""

EXITS = {'base': (1, 4, 6, 12), 'large': (1, 6, 12, 24)}
Scores = tuple[tuple[float, float], ...]

BERT: dict[str, dict[str, Scores]] = {
  'base': {
    'multi_model': ((60.9, 0.6), (71.4, 0.1), (74.7, 1.2), (79.9, 0.9)),
    'early_exit': ((57.3, 0.3), (70.3, 0.3), (74.4, 0.7), (78.7, 0.5)),
    'sweet': ((60.9, 0.5), (71.6, 0.5), (74.0, 0.4), (77.4, 0.6)),
  },
  'large': {
    'multi_model': ((60.1, 0.1), (66.9, 0.4), (74.4, 0.9), (81.6, 0.3)),
    'early_exit': ((56.6, 0.3), (65.6, 0.9), (74.0, 0.6), (79.9, 1.9)),
    'sweet': ((59.8, 0.3), (66.5, 0.7), (74.5, 0.3), (81.3, 1.0)),
  },
}
DEBERTA: dict[str, dict[str, Scores]] = {
  'base': {
    'multi_model': ((60.1, 0.4), (74.6, 0.6), (78.3, 1.1), (82.2, 0.7)),
    'early_exit': ((52.3, 0.4), (70.9, 0.6), (77.9, 0.8), (81.7, 0.1)),
    'sweet': ((59.1, 1.5), (72.4, 0.2), (75.1, 1.1), (79.5, 0.5)),
  },
  'large': {
    'multi_model': ((61.9, 0.1), (76.2, 0.4), (80.2, 0.9), (86.8, 0.2)),
    'early_exit': ((55.8, 0.9), (74.7, 1.1), (79.2, 0.8), (83.6, 1.9)),
    'sweet': ((61.3, 0.7), (76.0, 0.5), (77.8, 0.4), (82.7, 0.4)),
  },
}
LEARNING_TO_EXIT: dict[str, dict[str, Scores]] = {
  'base': {
    'multi_model': ((53.7, 0.5), (66.1, 0.4), (71.1, 0.3), (75.4, 2.7)),
    'early_exit': ((49.5, 1.1), (63.0, 0.2), (70.0, 0.6), (75.3, 0.4)),
    'sweet': ((53.5, 0.4), (64.9, 0.9), (68.5, 1.4), (74.1, 0.4)),
  },
  'large': {
    'multi_model': ((51.6, 0.3), (59.9, 0.4), (67.6, 2.6), (77.9, 0.8)),
    'early_exit': ((50.5, 0.8), (59.3, 0.9), (68.8, 1.3), (76.6, 1.6)),
    'sweet': ((53.9, 0.5), (60.6, 0.2), (69.5, 0.4), (75.8, 1.0)),
  },
}
