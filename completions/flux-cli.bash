# bash completion of flux-cli, from `flux-cli --show-completion bash`
_flux_cli() {
    local line=${COMP_LINE:0:COMP_POINT} kind word listing place=
    local -a listed=()
    # Readline replaces only what follows the last character of COMP_WORDBREAKS, for example a colon.
    local kept=${line##*[[:space:]]}
    kept=${kept%"$2"}
    COMPREPLY=()
    while IFS=$'\t' read -r kind word listing; do
        case $kind in
            word) COMPREPLY+=("${word#"$kept"}") listed+=("${listing#"$kept"}") ;;
            *) place=$kind ;;
        esac
    done < <(_FLUX_CLI_COMPLETE=bash _FLUX_CLI_LINE=$line _FLUX_CLI_COLUMNS=${COLUMNS:-80} \
        "${1/#\~\//$HOME/}" 2>/dev/null)
    case $place in
        file)
            if [[ ${#COMPREPLY[@]} -eq 0 ]] && compopt -o default 2>/dev/null; then return; fi
            compopt -o filenames 2>/dev/null
            while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$2")
            ;;
        dir) compopt -o plusdirs 2>/dev/null ;;
    esac
    # If candidates are only listed (63), or at most their common prefix is inserted (33, 64: the option
    # show-all-if-ambiguous), each word has its description. Bash before 4.0 does not set COMP_TYPE.
    if [[ ${#COMPREPLY[@]} -gt 1 && ${#listed[@]} -gt 0 ]] && [[ ${COMP_TYPE-} == 63 ||
        ${COMP_TYPE-} =~ ^(33|64)$ && ${#COMPREPLY[@]} -eq ${#listed[@]} ]]; then
        compopt +o filenames
        COMPREPLY=("${listed[@]}" "${COMPREPLY[@]:${#listed[@]}}")
    fi
}
# bash before 4.4, as on macOS, has no option to keep the order.
complete -o nosort -F _flux_cli flux-cli 2>/dev/null || complete -F _flux_cli flux-cli
