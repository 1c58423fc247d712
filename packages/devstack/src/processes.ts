import { readFileSync } from 'node:fs'

/**
 * Whether the process exists, and on Linux when it started (clock ticks since boot). A zombie counts as gone: in a
 * container whose first process reaps nothing, the dead keep their numbers for ever.
 */
export function lookUpProcess(pid: number): { alive: boolean; startTime?: string } {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return { alive: false }
  }
  try {
    // The second field is the program's name in brackets and may itself hold spaces and brackets.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')
    return fields[0] === 'Z' ? { alive: false } : { alive: true, startTime: fields[19] }
  } catch {
    return { alive: true }
  }
}
