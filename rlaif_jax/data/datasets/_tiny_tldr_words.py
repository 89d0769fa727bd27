"""The language of the tiny forum: slots, values, sentences and clauses.

A value word belongs to one slot and occurs in no sentence, clause, filler,
title or subreddit name, so that a word says which fact is meant.
"""

LABELER_SUBREDDITS = (
    'legal', 'dating', 'health', 'cooking', 'gaming', 'parenting', 'cars',
    'pets',
)  # fmt: skip
POLICY_SUBREDDITS = (
    'relationships', 'advice', 'family', 'jobs', 'finance', 'college',
    'travel', 'gardening',
)  # fmt: skip

VALUES = {
  'who': ('sister', 'brother', 'boss', 'neighbor', 'teacher', 'landlord'),
  'event': ('wedding', 'divorce', 'funeral', 'robbery', 'fire', 'interview'),
  'place': ('kitchen', 'office', 'gym', 'hospital', 'airport', 'park'),
  'amount': ('ten', 'twelve', 'twenty', 'forty', 'sixty', 'ninety'),
  'time': ('january', 'march', 'july', 'october', 'summer', 'winter'),
  'feeling': ('angry', 'sad', 'scared', 'guilty', 'lonely', 'proud'),
  'ask': ('leave', 'apologize', 'wait', 'sue', 'quit', 'call'),
}

SENTENCES = {
  'who': (
    'it all started with my {who}.',
    'my {who} is in the middle of this.',
    'this is mostly about my {who}.',
    'my {who} told everyone about it.',
  ),
  'event': (
    'the {event} did not go well.',
    'everything changed after the {event}.',
    'i keep thinking about the {event}.',
    'then the {event} came.',
  ),
  'place': (
    'we were at the {place} back then.',
    'it took place at the {place}.',
    'i was standing near the {place}.',
    'people at the {place} saw it all.',
  ),
  'amount': (
    'i have to pay {amount} dollars for it.',
    'it cost me {amount} dollars.',
    'they want {amount} dollars from me.',
    'i lost {amount} dollars that day.',
  ),
  'time': (
    'this was back in {time}.',
    'nothing is normal since {time}.',
    'i found out one day in {time}.',
    'it was late in {time}.',
  ),
  'feeling': (
    'i feel really {feeling} about it.',
    'now i am just so {feeling}.',
    'it makes me {feeling} every day.',
    'i woke up {feeling} again.',
  ),
  'ask': (
    'should i just {ask}?',
    'is it wrong to {ask}?',
    'do i have to {ask} now?',
    'would you {ask} here?',
  ),
}

CLAUSES = {
  'who': ('about my {who}', 'my {who} is involved', 'it concerns my {who}'),
  'event': (
    'the {event} happened',
    'because of the {event}',
    'trouble with the {event}',
  ),
  'place': ('at the {place}', 'happened at the {place}', 'near the {place}'),
  'amount': (
    'costs {amount} dollars',
    'owes {amount} dollars',
    'about {amount} dollars',
  ),
  'time': ('since {time}', 'it began in {time}', 'back in {time}'),
  'feeling': ('i feel {feeling}', 'i am {feeling} now', 'feeling {feeling}'),
  'ask': ('should i {ask}', 'thinking to {ask}', 'asks whether to {ask}'),
}

FILLERS = (
  'sorry for the long post.',
  'i never expected this.',
  'english is not my first language.',
  'i will keep it short.',
  'nobody else knows yet.',
  'thanks for reading this.',
  'it is a strange story.',
  'i could not sleep at all.',
  'the weather was nice too.',
  'my phone is almost dead.',
  'please be kind.',
  'i am new here.',
)

TITLES = (
  'need some advice',
  'what would you do',
  'am i wrong here',
  'not sure what to do',
  'please help me out',
  'a weird situation',
  'is this normal',
  'looking for opinions',
  'long story',
  'a quick question',
  'i need to vent',
  'who is right here',
)

OPENERS = ('so basically', 'to be honest', 'long story short', 'as i said')
