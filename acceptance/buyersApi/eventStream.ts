/** An event stream as a client reads it: records split at LF LF, as existing wallets do (clients.md 8). */
export type EventStream = {
  status: number
  headers: Headers
  /** Everything that came, undivided. */
  text(): string
  events(): StreamEvent[]
  /** When each comment came, in ms after the headers. */
  comments: number[]
  /** The market has ended it. */
  ended(): boolean
  close(): void
}

export type StreamEvent = { id: string | undefined; name: string | undefined; data: any; receivedAt: number }

export async function openStream(
  url: string,
  { token, lastEventId }: { token?: string; lastEventId?: string } = {},
): Promise<EventStream> {
  const hangUp = new AbortController()
  const response = await fetch(url, {
    headers: {
      Accept: 'text/event-stream',
      ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
      ...(lastEventId === undefined ? {} : { 'Last-Event-ID': lastEventId }),
    },
    signal: hangUp.signal,
  })
  const openedAt = Date.now()
  const received: StreamEvent[] = []
  const comments: number[] = []
  let [text, unread, over] = ['', '', false]

  const read = async () => {
    const decoder = new TextDecoder()
    for await (const chunk of response.body ?? []) {
      const part = decoder.decode(chunk as Uint8Array, { stream: true })
      text += part
      const records = (unread + part).split('\n\n')
      unread = records.pop()!
      for (const record of records) {
        const lines = record.split('\n')
        if (lines.every((line) => line.startsWith(':'))) comments.push(Date.now() - openedAt)
        else received.push({ ...parse(lines), receivedAt: Date.now() })
      }
    }
  }
  const reading = read().catch(() => {})
  void reading.then(() => (over = true))

  return {
    status: response.status,
    headers: response.headers,
    text: () => text,
    events: () => received,
    comments,
    ended: () => over,
    close: () => hangUp.abort(),
  }
}

function parse(lines: string[]): Omit<StreamEvent, 'receivedAt'> {
  const field = (name: string) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2)
  const data = field('data')
  return { id: field('id'), name: field('event'), data: data === undefined ? undefined : JSON.parse(data) }
}
