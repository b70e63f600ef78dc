//! The commands for a machine with PowerShell.

use super::{At, Joining, KEY, KEY_FILE};
use crate::commands::Shell;

/// `>` of Windows `PowerShell` writes UTF-16, which no program takes for a key: hence `Set-Content`.
pub fn commands(joining: &Joining) -> String {
    let server = Shell::PowerShell.quote(&joining.server);
    let source = if joining.with_key { format!("'{KEY}'") } else { Shell::PowerShell.line(&joining.reveal) };
    let file = format!(
        "$null = New-Item -Force {KEY_FILE}\n\
         icacls {KEY_FILE} /inheritance:r /grant:r \"${{env:USERNAME}}:F\"\n\
         {source} | Set-Content -NoNewline -Encoding ascii {KEY_FILE}\n"
    );
    let join = match joining.at {
        At::NetBird => format!("netbird up --management-url {server} --setup-key-file {KEY_FILE}\n"),
        At::Cluster => enroll(&server),
    };
    format!("{file}{join}Remove-Item {KEY_FILE}\n")
}

/// As in docs/join-a-machine.md. The private key and the token are kept, so that the same machine joins once.
fn enroll(server: &str) -> String {
    format!(
        "\
$server = {server}
if (-not (Test-Path private.key)) {{ wg genkey | Set-Content -NoNewline -Encoding ascii private.key }}
if (-not (Test-Path token)) {{
  $bytes = New-Object byte[] 32
  [Security.Cryptography.RandomNumberGenerator]::Create().GetBytes($bytes)
  [Convert]::ToBase64String($bytes) | Set-Content -NoNewline -Encoding ascii token
}}
$token = (Get-Content token).Trim()
$body = @{{ setupKey = (Get-Content {KEY_FILE}).Trim(); publicKey = (Get-Content private.key | wg pubkey); hostname = $env:COMPUTERNAME; token = $token }}
$peer = Invoke-RestMethod -Method Post -Uri \"$server/v1/enroll\" -Body ($body | ConvertTo-Json)
Invoke-RestMethod -Method Post -Uri \"$server/v1/namespaces/$($peer.namespace)/peers/$($peer.name)/heartbeat\" -Headers @{{ Authorization = \"Bearer $token\" }}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::tests::joining;

    #[test]
    fn the_agent_of_netbird_joins_with_a_file_in_ascii() {
        let expected = "\
$null = New-Item -Force setup-key
icacls setup-key /inheritance:r /grant:r \"${env:USERNAME}:F\"
kubectl setupkey reveal office -n network | Set-Content -NoNewline -Encoding ascii setup-key
netbird up --management-url https://api.netbird.io --setup-key-file setup-key
Remove-Item setup-key
";
        assert_eq!(commands(&joining(At::NetBird)), expected);
    }

    #[test]
    fn a_url_is_a_text_and_no_command() {
        let text = commands(&joining(At::Cluster));
        assert!(text.contains("$server = 'https://enroll.example.com/a''$(id)'\n"), "{text}");
        assert!(text.contains("-Uri \"$server/v1/enroll\""), "{text}");
        let opened = text.matches(['{', '(']).count();
        assert_eq!(opened, text.matches(['}', ')']).count(), "{text}");
    }

    #[test]
    fn a_key_among_the_commands_is_a_text() {
        let text = commands(&Joining { with_key: true, ..joining(At::NetBird) });
        assert!(text.contains(&format!("'{KEY}' | Set-Content -NoNewline -Encoding ascii setup-key\n")), "{text}");
    }
}
