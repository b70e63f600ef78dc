#compdef kubectl-setupkey
# Completion of kubectl-setupkey in zsh. In ~/.zshrc, after compinit: source <(kubectl-setupkey completion zsh)

_kubectl_setupkey() {
    local line name directive=4
    local -a candidates
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
        :*) directive=${line#:} ;;
        *$'\t'*)
            name=${line%%$'\t'*}
            candidates+=("${name//:/\\:}:${line#*$'\t'}")
            ;;
        ?*) candidates+=("${line//:/\\:}") ;;
        esac
    done
    if [[ ${words[CURRENT]} == -*=* ]]; then compset -P '*='; fi
    if ((directive == 0)); then
        _files
    elif ((${#candidates})); then
        _describe -V 'kubectl-setupkey' candidates
    fi
}

if [[ ${funcstack[1]:-} == _kubectl_setupkey ]]; then
    _kubectl_setupkey "$@"
else
    compdef _kubectl_setupkey kubectl-setupkey
fi
