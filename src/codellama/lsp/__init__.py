"""The language server: what an editor shows at the cursor. A server writes it, asked over HTTP."""
