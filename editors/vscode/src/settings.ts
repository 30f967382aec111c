/** What of VS Code's settings the language server is told, with nothing of VS Code in it. */

/** The settings that are the server's own, by the names that it knows them by. */
export const NAMES = [
  "url", "model", "tokenizer", "is_on", "completion", "off_for", "debounce_ms", "context_tokens",
  "max_tokens", "max_lines", "candidates", "temperature", "timeout_s", "definitions",
  "recent_edits", "repository", "rank",
] as const;

/** Reads a setting by its name below `codellama`. */
export type Read = (name: string) => unknown;

/** The server's settings; those that are not set are left out. */
export function serverSettings(read: Read): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  for (const name of NAMES) {
    const value = read(name);
    if (value !== undefined && value !== null) {
      found[name] = value;
    }
  }
  return found;
}

/** The command to start: a program and its arguments. */
export function serverCommand(read: Read): { command: string; args: string[] } {
  const value = read("command");
  if (!Array.isArray(value) || value.length === 0 || !value.every((part) => typeof part === "string")) {
    throw new Error('`codellama.command` is no list of words; expected one such as ["codellama", "lsp"]');
  }
  const [command, ...args] = value as [string, ...string[]];
  return { command, args };
}
