//! The format of log lines. A value that comes from others stays in its line, and sends no codes to terminals.
//!
//! tracing-subscriber escapes codes in the message only, and newlines nowhere. Its JSON lets through what JSON allows, and
//! that includes codes of the range above ASCII.

use std::{
    error::Error,
    fmt::{self, Write},
    iter,
};

use setupkey_operator::plain::{Plain, is_plain};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::{RecordFields, VisitOutput},
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{DefaultVisitor, Writer},
    },
    registry::LookupSpan,
};

/// Fields of the text format. Each value is plain text; the colours around it are those of tracing-subscriber.
pub struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = PlainValues(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

struct PlainValues<'a>(DefaultVisitor<'a>);

impl Visit for PlainValues<'_> {
    /// The message is shown without quotation marks, and other texts with them.
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let causes: Vec<_> = iter::successors(Some(value), |&error| error.source()).map(ToString::to_string).collect();
        self.record_debug(field, &format_args!("{}", causes.join(": ")));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.record_debug(field, &PlainValue(value));
    }
}

struct PlainValue<'a>(&'a dyn fmt::Debug);

impl fmt::Debug for PlainValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Plain(f), "{:?}", self.0)
    }
}

/// Lines of JSON in which the same characters are escaped as JSON does it, so that each text keeps its value.
pub struct JsonLines<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for JsonLines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        self.0.format_event(context, Writer::new(&mut PlainJson(&mut writer)), event)
    }
}

/// Passes on JSON. Outside of texts it is ASCII, and its only newline is at its end.
struct PlainJson<'a, 'b>(&'a mut Writer<'b>);

impl Write for PlainJson<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut units = [0; 2];
        text.chars().try_for_each(|c| match c {
            c if c == '\n' || is_plain(c) => self.0.write_char(c),
            c => c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(self.0, "\\u{unit:04x}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::Value;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    const ODD: &str = "a\nb\r\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2028}c";
    const SHOWN: &str = r"a\nb\r\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2028}c";

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Buffer {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl Buffer {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// One event that holds the odd text in every kind of value, within a span.
    fn tell() {
        let error = io::Error::other(anyhow::anyhow!(ODD).context(ODD));
        let error: &(dyn Error + 'static) = &error;
        let span = tracing::info_span!("span", of_span = %ODD, late = tracing::field::Empty);
        let entered = span.enter();
        span.record("late", tracing::field::display(ODD));
        tracing::info!(display = %ODD, debug = ?ODD, text = ODD, error, "message {ODD}");
        drop(entered);
        tracing::info!("{}", ODD);
    }

    #[test]
    fn a_value_of_others_stays_in_its_line_of_text() {
        let colour = regex::Regex::new("\u{1b}\\[[0-9]+m").unwrap();
        for colours in [false, true] {
            let buffer = Buffer::default();
            let builder = tracing_subscriber::fmt().with_writer(buffer.clone()).with_ansi(colours);
            tracing::subscriber::with_default(builder.fmt_fields(TextFields).finish(), tell);
            let text = buffer.text();
            assert_eq!(text.lines().count(), 2, "{text}");
            // The colours of the subscriber are there, and without them everything is plain.
            assert_eq!(text.contains("\u{1b}[32m INFO\u{1b}[0m"), colours, "{text:?}");
            let text = colour.replace_all(&text, "");
            assert!(text.chars().all(|c| c == '\n' || is_plain(c)), "{text:?}");
            for part in [
                format!("of_span={SHOWN}"),
                format!("late={SHOWN}"),
                format!("display={SHOWN}"),
                format!("debug={ODD:?}"),
                format!("text={ODD:?}"),
                format!("error={SHOWN}: {SHOWN}"),
                format!("message {SHOWN}"),
            ] {
                assert!(text.contains(&part), "{part} is not in {text}");
            }
            assert!(text.ends_with(&format!(" {SHOWN}\n")), "{text}");
        }
    }

    #[test]
    fn a_value_of_others_is_kept_in_a_line_of_json() {
        let buffer = Buffer::default();
        let builder = tracing_subscriber::fmt().with_writer(buffer.clone()).json().flatten_event(true);
        tracing::subscriber::with_default(builder.map_event_format(JsonLines).finish(), tell);
        let text = buffer.text();
        assert!(text.chars().all(|c| c == '\n' || is_plain(c)), "{text:?}");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["message"], format!("message {ODD}"));
        assert_eq!((&lines[0]["display"], &lines[0]["text"]), (&ODD.into(), &ODD.into()));
        assert_eq!((&lines[0]["span"]["of_span"], &lines[1]["message"]), (&ODD.into(), &ODD.into()));
    }
}
