/** What an answer to a stranger never says, as it looks in the languages that adapters are written in. */
const INSIDES: [what: string, looks: RegExp][] = [
  ['a stack trace', /(?:^|["\n])\s*at \S.*:\d+:\d+|\s+at [\w.<>$]+ ?\(\S+:\d+/],
  ['a stack trace', /Traceback \(most recent call last\)|goroutine \d+ \[|panicked at|Exception in thread/],
  ['a stack trace', /\b(?:java|javax|org|com|System|Microsoft)(?:\.\w+){2,}(?:Exception|Error)\b/],
  ['SQL', /\bselect\s[^{}]+\sfrom\s+\S+\s+(?:where|limit|order by|for update|join)\b|\bselect \* from\b/i],
  ['SQL', /\binsert into\s|\bdelete from\s+\S+\s+where\b|\bupdate\s+\S+\s+set\s+\S+\s*=/i],
  [
    'a message of the database',
    /SQLSTATE|relation \\?"|duplicate key value|syntax error at or near|ORA-\d{5}|invalid byte sequence/i,
  ],
  ['a path', /(?:^|[\s"'(=])(?:file:\/\/)?\/(?:home|root|usr|app|srv|opt|var|tmp|etc|mnt)\/[\w.-]/],
  ['a path', /(?:^|[\s"'(=])[A-Z]:\\\\?\w|\/node_modules\/|\/site-packages\//],
]

/** The first thing of the inside that a body gives away, if any (adapters.md A19). */
export function insideOf(body: string, serviceKey: string): string | undefined {
  if (serviceKey.length >= 8 && body.includes(serviceKey)) return 'the service key'
  // Inside a JSON string they are escaped.
  const plain = body.replaceAll(String.raw`\n`, '\n').replaceAll(String.raw`\t`, '\t')
  return INSIDES.find(([, looks]) => looks.test(plain))?.[0]
}
