import { execFile } from 'node:child_process'

const script = new URL('../scripts/dist/ops.js', import.meta.url).pathname

/** `npm run ops -- …` as its operator runs it, with nothing in the environment but `env`. */
export function runOps(
  env: NodeJS.ProcessEnv,
  ...args: string[]
): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [script, ...args],
      { env: { PATH: process.env.PATH, ...env } },
      (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
    )
  })
}
