# bash completion of flux-cli, from `flux-cli --show-completion bash`
_flux_cli() {
    local line=${COMP_LINE:0:COMP_POINT} kind word place=
    # Readline replaces only what follows the last of COMP_WORDBREAKS, a colon for example.
    local kept=${line##*[[:space:]]}
    kept=${kept%"$2"}
    COMPREPLY=()
    while IFS=$'\t' read -r kind word _; do
        case $kind in
            word) COMPREPLY+=("${word#"$kept"}") ;;
            *) place=$kind ;;
        esac
    done < <(_FLUX_CLI_COMPLETE=bash _FLUX_CLI_LINE=$line "${1/#\~\//$HOME/}" 2>/dev/null)
    case $place in
        file)
            if [[ ${#COMPREPLY[@]} -eq 0 ]] && compopt -o default 2>/dev/null; then return; fi
            compopt -o filenames 2>/dev/null
            while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$2")
            ;;
        dir) compopt -o plusdirs 2>/dev/null ;;
    esac
}
# Older ones than bash 4.4, as on macOS, cannot keep the order.
complete -o nosort -F _flux_cli flux-cli 2>/dev/null || complete -F _flux_cli flux-cli
