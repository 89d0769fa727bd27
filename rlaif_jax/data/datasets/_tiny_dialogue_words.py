"""The language of the tiny assistant: requests and the clauses of replies.

A value word belongs to one slot of its task and occurs nowhere else in it, so
that a word says which detail is meant. Harmful acts are mild and abstract.
"""

_PEOPLE = (
    'sister', 'brother', 'boss', 'roommate', 'neighbor', 'cousin', 'uncle',
    'aunt', 'teacher', 'landlord', 'coworker', 'grandma',
)  # fmt: skip

# Each kind of job has its things to make, tools, verb and tips.
KINDS = {
  'repair': {
    'verb': 'fix',
    'job': ('bike', 'fence', 'sofa', 'roof'),
    'tool': ('hammer', 'drill', 'ladder', 'wrench'),
    'tips': ('wear gloves', 'check every screw'),
  },
  'food': {
    'verb': 'cook',
    'job': ('cake', 'soup', 'bread', 'stew'),
    'tool': ('oven', 'pan', 'knife', 'bowl'),
    'tips': ('taste it often', 'wash your hands'),
  },
  'writing': {
    'verb': 'write',
    'job': ('essay', 'resume', 'speech', 'letter'),
    'tool': ('laptop', 'pencil', 'notebook', 'keyboard'),
    'tips': ('read it aloud', 'make a short outline'),
  },
  'art': {
    'verb': 'make',
    'job': ('song', 'costume', 'painting', 'mask'),
    'tool': ('brush', 'scissors', 'needle', 'camera'),
    'tips': ('try a sketch first', 'work in good light'),
  },
}

HELPFUL_VALUES = {
    'job': tuple(job for kind in KINDS.values() for job in kind['job']),
    'tool': tuple(tool for kind in KINDS.values() for tool in kind['tool']),
    'deadline': (
        'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday',
        'sunday', 'tonight', 'tomorrow', 'noon', 'midnight', 'easter',
    ),
    'budget': (
        'ten', 'eleven', 'twelve', 'thirteen', 'fifteen', 'twenty', 'thirty',
        'forty', 'fifty', 'sixty', 'seventy', 'eighty',
    ),
    'helper': _PEOPLE,
}  # fmt: skip

HELPFUL_SENTENCES = {
  'job': (
    'i want to {verb} my {job}.',
    'how do i {verb} the {job}?',
    'please help me {verb} the {job}.',
  ),
  'tool': ('i have a good {tool}.', 'the {tool} is at home.'),
  'deadline': ('it has to be ready by {deadline}.', 'i have until {deadline}.'),
  'budget': ('i can pay {budget} dollars.', 'i saved {budget} dollars.'),
  'helper': ('my {helper} is free.', 'my {helper} wants to join.'),
}

HELPFUL_CLAUSES = {
  'job': (
    'start with the {job}',
    'plan the {job} first',
    'you can do the {job}',
  ),
  'tool': ('use the {tool}', 'keep the {tool} close'),
  'deadline': ('finish before {deadline}', 'be done by {deadline}'),
  'budget': ('spend under {budget} dollars', 'keep to {budget} dollars'),
  'helper': ('ask your {helper}', 'let your {helper} help'),
}

# The tips of each kind of job are a topic of their own.
HELPFUL_CLAUSES |= {f'tip_{kind}': KINDS[kind]['tips'] for kind in KINDS}
HELPFUL_CLAUSES |= {
  'vague': ('it depends', 'i am not sure', 'good luck with that'),
  'rude': ('that is dumb', 'you are hopeless', 'what a lazy question'),
}
RUDE_WORDS = frozenset(('dumb', 'hopeless', 'lazy'))

HARMFUL_ACTS = (
    'steal', 'smash', 'hack', 'ruin', 'forge', 'burn', 'trash', 'sabotage',
)  # fmt: skip
BENIGN_ACTS = (
    'clean', 'repair', 'paint', 'sell', 'wrap', 'move', 'store', 'decorate',
)  # fmt: skip

HARMLESS_VALUES = {
    'act': HARMFUL_ACTS + BENIGN_ACTS,
    'object': (
        'car', 'phone', 'door', 'wallet', 'window', 'computer', 'bag',
        'watch', 'boat', 'mailbox', 'statue', 'desk',
    ),
    'owner': _PEOPLE,
    'mood': (
        'angry', 'sad', 'bored', 'nervous', 'proud', 'tired', 'jealous',
        'hopeful',
    ),
    # Only replies speak of means.
    'means': (
        'rope', 'cloth', 'tape', 'stick', 'bucket', 'key', 'torch', 'cart',
    ),
}  # fmt: skip

HARMLESS_SENTENCES = {
  'request': (
    'how do i {act} the {object} of my {owner}?',
    'tell me how to {act} the {object} of my {owner}.',
    'i want to {act} the {object} of my {owner}.',
  ),
  'mood': ('i am so {mood} today.', 'this makes me {mood}.'),
}
HARMLESS_FILLERS = (
  'please keep it simple.',
  'we talked about it before.',
  'i have time today.',
  'nobody will know.',
)

HARMLESS_CLAUSES = {
  'answer': (
    'here is how to {act} the {object}',
    'to {act} the {object} is easy',
  ),
  'step': (
    'use a {means}',
    'bring a {means}',
    'do it in the morning',
    'go one step at a time',
  ),
  'refusal': (
    'i can not help you {act} the {object}',
    'i will not help with that',
    'that would harm your {owner}',
  ),
  'alternative': (
    'talk to your {owner} first',
    'take a walk instead',
    'sleep on it',
  ),
  'empathy': ('sorry you feel {mood}', 'i see you are {mood}'),
  'evasion': ('i do not know', 'maybe another time'),
  'insult': ('you are stupid', 'your {owner} is an idiot', 'what a loser'),
}
INSULT_WORDS = frozenset(('stupid', 'idiot', 'loser'))

# Earlier turns, some of the time: what was said, and the answer to it.
SMALL_TALK = (
  ('hello there.', 'hi, how can i help you?'),
  ('can i ask something?', 'of course, go ahead.'),
  ('i need some help.', 'sure, what is it about?'),
)

OPENERS = ('well you know', 'to be honest', 'as i said')


def kind_of(job: str) -> str:
  """Returns the kind that a job belongs to.

  Raises:
    ValueError: no kind has such a job.
  """
  for kind, parts in KINDS.items():
    if job in parts['job']:
      return kind
  raise ValueError(f'{job!r} is no job of the tiny assistant.')
