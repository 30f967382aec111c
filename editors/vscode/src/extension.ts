/** Starts `codellama lsp` and hands it to VS Code, which draws the ghost text by itself. */

import * as vscode from "vscode";
import { LanguageClient, type LanguageClientOptions, type ServerOptions } from "vscode-languageclient/node";

import { serverCommand, serverSettings } from "./settings.js";

let client: LanguageClient | undefined;

function read(name: string): unknown {
  return vscode.workspace.getConfiguration("codellama").get(name);
}

async function start(): Promise<void> {
  const server: ServerOptions = serverCommand(read);
  const options: LanguageClientOptions = {
    documentSelector: [{ scheme: "file" }, { scheme: "untitled" }],
    initializationOptions: serverSettings(read),
  };
  client = new LanguageClient("codellama", "codellama", server, options);
  await client.start();
}

async function stop(): Promise<void> {
  const ended = client;
  client = undefined;
  await ended?.dispose();
}

/** Starts or stops, and says what is wrong where the user sees it. */
async function orSay(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    void vscode.window.showErrorMessage(`codellama: ${error instanceof Error ? error.message : String(error)}`);
  }
}

export async function activate(context: vscode.ExtensionContext): Promise<void> {
  context.subscriptions.push(
    vscode.commands.registerCommand("codellama.restart", () =>
      orSay(async () => {
        await stop();
        await start();
      }),
    ),
    vscode.commands.registerCommand("codellama.switch", async () => {
      const settings = vscode.workspace.getConfiguration("codellama");
      await settings.update("is_on", !settings.get("is_on"), vscode.ConfigurationTarget.Global);
    }),
    vscode.workspace.onDidChangeConfiguration(async (event) => {
      if (event.affectsConfiguration("codellama.command")) {
        await orSay(async () => {
          await stop();
          await start();
        });
      } else if (event.affectsConfiguration("codellama")) {
        await client?.sendNotification("workspace/didChangeConfiguration", {
          settings: { codellama: serverSettings(read) },
        });
      }
    }),
  );
  await orSay(start);
}

export function deactivate(): Promise<void> {
  return stop();
}
