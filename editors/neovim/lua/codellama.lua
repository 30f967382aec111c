-- Ghost text from `codellama lsp` in Neovim 0.11 and newer.
--
--   require('codellama').setup({ cmd = { 'codellama', 'lsp' } })
--
-- Neovim 0.12 draws inline completions itself (vim.lsp.inline_completion), and this file only turns
-- that on. In 0.11, which has no such module, it asks and draws by what is below.

local M = {}

local METHOD = 'textDocument/inlineCompletion'
local INVOKED, AUTOMATIC = 1, 2
local space = vim.api.nvim_create_namespace('codellama')

local defaults = {
  cmd = { 'codellama', 'lsp' },
  settings = {}, -- those of docs/editors.md
  filetypes = nil, -- all of them
  accept = '<Tab>',
  accept_line = '<M-l>',
  next = '<M-]>',
  dismiss = '<M-[>',
}
local options = defaults
local shown = nil -- what is drawn: buf, row, col, items, index, client
local pending = nil -- the request under way: client, id

local function clear()
  if shown and vim.api.nvim_buf_is_valid(shown.buf) then
    vim.api.nvim_buf_clear_namespace(shown.buf, space, 0, -1)
  end
  shown = nil
end

local function cancel()
  if pending then
    pending.client:cancel_request(pending.id)
    pending = nil
  end
end

-- The text of an item from the cursor on, and how many bytes of the line right of it it replaces.
local function after_cursor(item)
  local line = vim.api.nvim_buf_get_lines(shown.buf, shown.row, shown.row + 1, false)[1] or ''
  local text = type(item.insertText) == 'table' and item.insertText.value or item.insertText
  local encoding = shown.client.offset_encoding
  local first = vim.str_byteindex(line, encoding, item.range.start.character, false)
  local last = vim.str_byteindex(line, encoding, item.range['end'].character, false)
  local typed = line:sub(first + 1, shown.col)
  if text:sub(1, #typed) ~= typed then
    return nil
  end
  return text:sub(#typed + 1), line:sub(shown.col + 1, last)
end

local function draw()
  vim.api.nvim_buf_clear_namespace(shown.buf, space, 0, -1)
  local text, rest = after_cursor(shown.items[shown.index])
  if not text then
    clear()
    return
  end
  -- What stands right of the cursor is part of the text: only what comes before it is new there.
  local lines = vim.split(text, '\n', { plain = true })
  if #lines == 1 and rest ~= '' and vim.endswith(text, rest) then
    lines[1] = text:sub(1, #text - #rest)
  end
  local below = {}
  for i = 2, #lines do
    below[#below + 1] = { { lines[i], 'Comment' } }
  end
  vim.api.nvim_buf_set_extmark(shown.buf, space, shown.row, shown.col, {
    virt_text = { { lines[1], 'Comment' } },
    virt_text_pos = #lines == 1 and 'inline' or 'overlay',
    virt_lines = #below > 0 and below or nil,
    hl_mode = 'combine',
  })
end

local function ask(kind)
  cancel()
  clear()
  local buf = vim.api.nvim_get_current_buf()
  local client = vim.lsp.get_clients({ bufnr = buf, name = 'codellama' })[1]
  if not client then
    return
  end
  local cursor = vim.api.nvim_win_get_cursor(0)
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  params.context = { triggerKind = kind }
  local ok, id = client:request(METHOD, params, function(err, result)
    pending = nil
    local items = result and (result.items or result) or {}
    local now = vim.api.nvim_win_get_cursor(0)
    local is_here = vim.api.nvim_get_current_buf() == buf and now[1] == cursor[1] and now[2] == cursor[2]
    if err or #items == 0 or not is_here or vim.fn.mode() ~= 'i' then
      return
    end
    shown = { buf = buf, row = cursor[1] - 1, col = cursor[2], items = items, index = 1, client = client }
    draw()
  end, buf)
  if ok then
    pending = { client = client, id = id }
  end
end

-- Puts the suggestion, or its first line, into the buffer; false where none is shown.
function M.accept(is_line)
  if vim.lsp.inline_completion then
    return vim.lsp.inline_completion.get()
  end
  if not shown then
    return false
  end
  local item, client = shown.items[shown.index], shown.client
  local text, rest = after_cursor(item)
  local row, col, buf = shown.row, shown.col, shown.buf
  clear()
  if not text then
    return false
  end
  if is_line and text:find('\n', 1, true) then
    text = text:sub(1, text:find('\n', 1, true) - 1) .. rest
  end
  local lines = vim.split(text, '\n', { plain = true })
  vim.api.nvim_buf_set_text(buf, row, col, row, col + #rest, lines)
  local last = #lines == 1 and col + #lines[1] or #lines[#lines]
  vim.api.nvim_win_set_cursor(0, { row + #lines, last - #rest })
  if item.command then
    client:exec_cmd(item.command, { bufnr = buf })
  end
  return true
end

-- Shows the next of several suggestions, which are asked for when this is first pressed.
function M.next()
  if vim.lsp.inline_completion then
    vim.lsp.inline_completion.select()
  elseif shown and #shown.items > 1 then
    shown.index = shown.index % #shown.items + 1
    draw()
  else
    ask(INVOKED)
  end
end

function M.dismiss()
  cancel()
  clear()
end

-- The text that is shown, or nil.
function M.shown()
  return shown and (after_cursor(shown.items[shown.index]))
end

local function start(buf)
  if vim.bo[buf].buftype ~= '' then
    return
  end
  local capabilities = vim.lsp.protocol.make_client_capabilities()
  capabilities.textDocument.inlineCompletion = { dynamicRegistration = false }
  vim.lsp.start({
    name = 'codellama',
    cmd = options.cmd,
    root_dir = vim.fs.root(buf, { '.git' }) or vim.fn.getcwd(),
    init_options = vim.empty_dict() and next(options.settings) and options.settings or nil,
    capabilities = capabilities,
  }, { bufnr = buf })
end

local function keys()
  local function map(key, action, fallback)
    if key then
      vim.keymap.set('i', key, function()
        if not action() and fallback then
          vim.api.nvim_feedkeys(vim.keycode(key), 'in', false)
        end
      end)
    end
  end
  map(options.accept, M.accept, true)
  map(options.accept_line, function()
    return M.accept(true)
  end, true)
  map(options.next, M.next)
  map(options.dismiss, M.dismiss)
end

function M.setup(given)
  options = vim.tbl_deep_extend('force', defaults, given or {})
  local group = vim.api.nvim_create_augroup('codellama', {})
  vim.api.nvim_create_autocmd('FileType', {
    group = group,
    pattern = options.filetypes or '*',
    callback = function(event)
      start(event.buf)
    end,
  })
  keys()
  if vim.lsp.inline_completion then
    vim.lsp.inline_completion.enable(true)
    return
  end
  vim.api.nvim_create_autocmd({ 'TextChangedI', 'CursorMovedI' }, {
    group = group,
    callback = function()
      ask(AUTOMATIC)
    end,
  })
  vim.api.nvim_create_autocmd({ 'InsertLeave', 'BufLeave' }, { group = group, callback = M.dismiss })
end

return M
