# Completion of kubectl-setupkey in bash. In ~/.bashrc: source <(kubectl-setupkey completion bash)
# shellcheck shell=bash

_kubectl_setupkey() {
    local words=() word glued='' line value prefix name
    # bash parts words at = and : too. The program is given whole words.
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        if ((${#words[@]})) && [[ $word == [=:] || -n $glued ]]; then
            words[${#words[@]}-1]+=$word
        else
            words+=("$word")
        fi
        glued=''
        if [[ $word == [=:] ]]; then glued=yes; fi
    done
    value=${words[${#words[@]}-1]}
    if [[ $value == -*=* ]]; then value=${value#*=}; fi
    # What is before the last colon stays as it is on the line.
    prefix=${value%"${value##*:}"}
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
        :0) compopt -o default ;;
        :*) ;;
        *)
            name=${line%%$'\t'*}
            COMPREPLY+=("${name#"$prefix"}")
            ;;
        esac
    done < <("$1" __complete "${words[@]}" 2>/dev/null)
}

complete -F _kubectl_setupkey kubectl-setupkey
