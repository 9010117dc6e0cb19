// Package redact shortens identifiers for logs and messages.
package redact

// ClientID keeps the first and last four characters of a client ID, enough to
// recognise it and too little to use it: 7eb6##### REDACTED #####a6a9. A value
// too short to be shortened is hidden entirely; an empty one stays empty, so
// that a log line still shows that it was missing.
func ClientID(id string) string {
	const keep = 4
	switch {
	case id == "":
		return ""
	case len(id) <= 2*keep:
		return "##### REDACTED #####"
	default:
		return id[:keep] + "##### REDACTED #####" + id[len(id)-keep:]
	}
}
