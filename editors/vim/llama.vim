" llama.vim (ggml-org/llama.vim) against `codellama serve`, in Vim and Neovim. These are also the
" plugin's own defaults, so that it works without them.
let g:llama_config = {
    \ 'endpoint_fim': 'http://127.0.0.1:8012/infill',
    \ 'endpoint_inst': 'http://127.0.0.1:8012/v1/chat/completions',
    \ }
