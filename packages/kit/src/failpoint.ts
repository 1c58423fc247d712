/** A named instant in a verb. Does nothing, unless a fault test asked this process to die exactly there. */
export type Failpoint = (name: string) => void

/** `FAILPOINT=checkout.frozen` kills the process, as `kill -9` would, the first time it comes there. */
export function failpointOf(armed: string | undefined): Failpoint {
  return (name) => {
    if (name === armed) process.kill(process.pid, 'SIGKILL')
  }
}
