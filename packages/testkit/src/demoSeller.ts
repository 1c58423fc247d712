import { execFile } from 'node:child_process'

/** What `npm start` does about its demo seller, from outside. */
export function seedDemoSeller(targets: {
  rpcUrl: string
  connections: { market: string; codedisp: string }
  secrets: { adapterSecretsKey: string }
  ipfsRpcUrl?: string | undefined
  ipfsStoreDir?: string | undefined
}): Promise<'seeded' | 'already seeded'> {
  const script = new URL('../../../scripts/dist/demoSeed.js', import.meta.url).pathname
  return new Promise((resolve, reject) => {
    const child = execFile(process.execPath, [script], (error, stdout, stderr) => {
      if (error) reject(new Error(stderr.trim() || error.message))
      else resolve(stdout.trim() as 'seeded')
    })
    // On standard input: whoever lists processes reads arguments, and these hold passwords.
    const { secrets, ...others } = targets
    child.stdin!.end(JSON.stringify({ ...others, adapterSecretsKey: secrets.adapterSecretsKey }))
  })
}
