import { ConfigError, readConfig } from './config.ts'
import { closeServersOwnDatabases, codeOf, connectWhenReady, provision, waitForOtherRuns } from './provision.ts'

const log = (line: string) => console.log(`[provision-dbs] ${line}`)

async function main(): Promise<void> {
  const { server, waitSeconds, databases, skipped } = readConfig(process.env)
  const admin = await connectWhenReady(server, waitSeconds, log)
  try {
    await waitForOtherRuns(admin)
    log(`server: databases 'postgres' and 'template1', grants ${await closeServersOwnDatabases(admin)}`)
    for (const wanted of databases) {
      const { role, database, grants } = await provision(admin, server, wanted, log)
      const names = `role '${wanted.user}' ${role}, database '${wanted.database}' ${database}`
      log(`${wanted.service}: ${names}, grants ${grants}`)
    }
    for (const { service, passwordVariable } of skipped) log(`${service}: skipped, ${passwordVariable} is empty`)
  } finally {
    await admin.end({ timeout: 5 })
  }
}

main().catch((error: Error) => {
  // Only messages: the error of a statement carries the statement, and that holds a password.
  const problems = error instanceof ConfigError ? error.problems : [error.message || codeOf(error)]
  for (const problem of problems) console.error(`[provision-dbs] ERROR: ${problem}`)
  // At once: the driver may still be dialling.
  process.exit(1)
})
