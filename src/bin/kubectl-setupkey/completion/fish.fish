# Completion of kubectl-setupkey in fish. In ~/.config/fish/config.fish: kubectl-setupkey completion fish | source

function __kubectl_setupkey_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    set -l current (commandline -ct)
    set -l flag (string match -r -- '^-[^=]*=' "$current")
    for line in ($program __complete $words "$current" 2>/dev/null)
        string match -q -r '^:[0-9]+$' -- $line; or echo -- "$flag$line"
    end
end

complete -c kubectl-setupkey -f -k -a '(__kubectl_setupkey_complete)'
complete -c kubectl-setupkey -l kubeconfig -r -F
