# fish completion of flux-cli, from `flux-cli --show-completion fish`
function __flux_cli_complete
    set -l command (string replace -r '^~' $HOME -- (commandline -opc)[1])
    set -l ask env _FLUX_CLI_COMPLETE=fish _FLUX_CLI_LINE=(commandline -cp | string collect) $command
    set -l flag (string match -r -- '^--[^=]*=' (commandline -ct))
    set -l value (string replace -r -- '^--[^=]*=' '' (commandline -ct))
    $ask 2>/dev/null | while read -l -d \t kind word description
        switch $kind
            case file
                printf '%s\n' "$flag"(__fish_complete_path "$value")
            case dir
                printf '%s\n' "$flag"(__fish_complete_directories "$value")
            case '*'
                printf '%s\t%s\n' $word $description
        end
    end
end
complete --command flux-cli --no-files --keep-order --arguments '(__flux_cli_complete)'
