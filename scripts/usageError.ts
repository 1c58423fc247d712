/** A caller's mistake: exit code 2, as the commands before these (adapters.md 7.1). Anything else that fails is 1. */
export class UsageError extends Error {}
