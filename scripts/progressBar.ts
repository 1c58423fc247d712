/** Where progress is told: `process.stderr`, or a test's. */
export type ProgressStream = { isTTY?: boolean; columns?: number; write(text: string): unknown }

export type Progress = {
  /** `total` 0: not known. */
  show(label: string, done: number, total: number): void
  /** Leaves the line free for what comes next. */
  end(): void
}

const BAR = 24
const REDRAW_MS = 100
const LINE_MS = 2000

/** A bar that is drawn over itself on a terminal; elsewhere a line now and then, and none for what takes less than that. */
export function progressBar(
  stream: ProgressStream,
  prefix: string,
  now: () => number = () => performance.now(),
): Progress {
  let shown: { label: string; at: number } | undefined
  let began = now()
  let phase = ''
  let isDrawn = false
  return {
    show(label, done, total) {
      if (label !== phase) {
        phase = label
        began = now()
        // The first thing of a phase is shown at once on a terminal, and elsewhere only if it lasts.
        shown = stream.isTTY ? undefined : { label, at: began }
      }
      const isLast = total > 0 && done === total
      const wait = stream.isTTY ? REDRAW_MS : LINE_MS
      if (shown && now() - shown.at < wait && !(isLast && stream.isTTY)) return
      shown = { label, at: now() }
      const seconds = (now() - began) / 1000
      const rate = seconds >= 1 ? `  ${Math.round(done / seconds)}/s` : ''
      const amount = total > 0 ? `${done} of ${total} (${Math.floor((100 * done) / total)} %)${rate}` : String(done)
      if (!stream.isTTY) {
        stream.write(`[${prefix}] ${label} ${amount}\n`)
        return
      }
      const filled = total > 0 ? Math.round((BAR * done) / total) : 0
      const bar = total > 0 ? `${'█'.repeat(filled)}${'░'.repeat(BAR - filled)} ` : ''
      stream.write(`\r\u001b[2K${`[${prefix}] ${label} ${bar}${amount}`.slice(0, (stream.columns ?? 80) - 1)}`)
      isDrawn = true
    },
    end() {
      if (isDrawn) stream.write('\r\u001b[2K')
      isDrawn = false
    },
  }
}
