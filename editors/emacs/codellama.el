;;; codellama.el --- suggestions from `codellama lsp' through eglot  -*- lexical-binding: t -*-

;; Load it, and start with M-x eglot. Suggestions come with M-x completion-at-point (C-M-i), and by
;; themselves in front ends such as corfu and company. eglot talks to one server per buffer: to have
;; this one beside another, put both behind a multiplexer such as lspx or rass.

;;; Code:

(require 'eglot)

(defvar codellama-command '("codellama" "lsp")
  "The command that eglot starts.")

(defvar codellama-modes '(python-mode js-mode c-mode c++-mode java-mode sh-mode)
  "The major modes in which it is started.")

(add-to-list 'eglot-server-programs
             (cons codellama-modes (lambda (&rest _) codellama-command)))

(provide 'codellama)
;;; codellama.el ends here
