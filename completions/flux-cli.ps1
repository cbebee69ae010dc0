# PowerShell completion of flux-cli, from `flux-cli --show-completion powershell`
Register-ArgumentCompleter -Native -CommandName flux-cli -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $line = "$commandAst"
    if ($wordToComplete -eq "") { $line += " " }
    try {
        $Env:_FLUX_CLI_COMPLETE = "powershell"
        $Env:_FLUX_CLI_LINE = $line
        flux-cli | ForEach-Object {
            $kind, $word, $text = $_ -split "`t"
            if ($kind -eq "word") {
                if (-not $text) { $text = $word }
                [System.Management.Automation.CompletionResult]::new($word, $word, "ParameterValue", $text)
            }
        }
    } finally {
        Remove-Item Env:_FLUX_CLI_COMPLETE, Env:_FLUX_CLI_LINE
    }
}
