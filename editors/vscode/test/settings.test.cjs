"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");

const manifest = require("../package.json");
const { NAMES, serverCommand, serverSettings } = require("../out/settings.js");

const declared = manifest.contributes.configuration.properties;

test("every setting of the server is declared, and no other", () => {
  const names = NAMES.map((name) => `codellama.${name}`);
  assert.deepEqual(Object.keys(declared).sort(), ["codellama.command", ...names].sort());
});

test("what is not set is left out", () => {
  const values = { url: null, model: "nano", is_on: false, off_for: [] };
  assert.deepEqual(serverSettings((name) => values[name]), { model: "nano", is_on: false, off_for: [] });
});

test("the command is a program and its arguments", () => {
  assert.deepEqual(serverCommand(() => ["codellama", "lsp", "--url", "U"]), {
    command: "codellama",
    args: ["lsp", "--url", "U"],
  });
  for (const wrong of [undefined, [], "codellama lsp", [1]]) {
    assert.throws(() => serverCommand(() => wrong), /`codellama.command` is no list of words/);
  }
});
