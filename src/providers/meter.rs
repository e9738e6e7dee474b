//! What an answer has cost in LLM tokens, as the answer itself says.
//!
//! Owns the reading of the `usage` in a body, whole or as a stream of events, whichever API it is of.
//! It promises the same count however the body is cut into pieces, that it keeps no more of it than one
//! such object of 8 KiB, and that nothing a model has written is taken for one. Pure.

use memchr::memchr3;
use serde_json::Value;

/// Some of these have 600 bytes. Larger ones are not read.
const LARGEST: usize = 8 * 1024;
/// More than anybody can use; what says so is no count.
const MOST: f64 = 1e12;
/// The longest name that is looked for.
const LONGEST_NAME: usize = 16;

/// LLM tokens, each counted once: read anew, written, read from a cache, and written to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LlmTokens(pub(crate) [u64; 4]);

impl LlmTokens {
    /// What they are called in the journal and the report.
    pub(crate) const NAMES: [&'static str; 4] = ["input", "output", "cache_read", "cache_written"];

    /// All of them. What is read from a cache counts as well: it has passed through the model, and some
    /// providers' counts of what was read contain it.
    pub(crate) fn sum(self) -> u64 {
        self.0.into_iter().fold(0, u64::saturating_add)
    }

    /// How much more `other` has; below zero it wraps, as [`LlmTokens::add`] does.
    fn beyond(self, other: LlmTokens) -> LlmTokens {
        LlmTokens(std::array::from_fn(|i| other.0[i].wrapping_sub(self.0[i])))
    }

    /// Adds what [`Meter::read`] has returned.
    pub(crate) fn add(&mut self, more: LlmTokens) {
        let counts = self.0.iter_mut().zip(more.0);
        counts.for_each(|(count, more)| *count = count.wrapping_add(more));
    }
}

/// What the answers of one model with one token came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) answers: u64,
    /// Those that have said what they cost.
    pub(crate) counted: u64,
    /// Those to requests for another model, which no token was good for.
    pub(crate) instead: u64,
    pub(crate) tokens: LlmTokens,
}

/// Reads an answer as it passes.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// A stream of events, in which a line is a text of its own.
    is_stream: bool,
    /// How many objects and lists are open.
    depth: usize,
    /// How many of these, from the outermost, may hold a usage.
    way: usize,
    text: Text,
    /// The beginning of the last text, and how much of it there is: a byte more than any name that is
    /// looked for has.
    word: [u8; LONGEST_NAME + 1],
    word_length: usize,
    key: Key,
    /// The usage that is being read, and the depth at which it began.
    usage: Vec<u8>,
    since: Option<usize>,
    /// What the answer has said so far; `None`: nothing.
    counted: Option<LlmTokens>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Text {
    #[default]
    Outside,
    Inside,
    Escaped,
}

/// The name before a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    /// There is none: an item of a list.
    #[default]
    None,
    Usage,
    /// Of an object that has the usage in it.
    Way,
    Other,
}

impl Meter {
    /// At the start of a body: of a stream of events, or of JSON.
    pub(crate) fn new(is_stream: bool) -> Meter {
        Meter {
            is_stream,
            ..Meter::default()
        }
    }

    /// Whether the answer has said what it cost.
    pub(crate) fn has_counted(&self) -> bool {
        self.counted.is_some()
    }

    /// Reads the next piece. Returns what it makes the count larger by, if it says anything of it: the
    /// counts in a stream are sums so far.
    pub(crate) fn read(&mut self, piece: &[u8]) -> Option<LlmTokens> {
        let before = self.counted;
        let mut rest = piece;
        loop {
            // What says nothing is passed over.
            let plain = match self.text {
                Text::Inside => memchr3(b'"', b'\\', b'\n', rest),
                Text::Outside => rest.iter().position(is_sign),
                Text::Escaped => Some(0),
            };
            let (plain, tail) = rest.split_at(plain.unwrap_or(rest.len()));
            match self.text {
                Text::Inside => self.keep(plain),
                Text::Outside | Text::Escaped => self.gather(plain),
            }
            let Some((byte, tail)) = tail.split_first() else {
                break;
            };
            self.step(*byte);
            rest = tail;
        }
        let counted = self.counted.filter(|_| self.counted != before)?;
        Some(before.unwrap_or_default().beyond(counted))
    }

    /// Takes in what is within a text.
    fn keep(&mut self, inside: &[u8]) {
        let room = self.word.iter_mut().skip(self.word_length);
        for (place, byte) in room.zip(inside) {
            *place = *byte;
            self.word_length += 1;
        }
        self.gather(inside);
    }

    /// Takes in what may be within a usage.
    fn gather(&mut self, bytes: &[u8]) {
        match self.usage.len() + bytes.len() > LARGEST {
            _ if self.since.is_none() => {}
            true => self.since = None,
            false => self.usage.extend_from_slice(bytes),
        }
    }

    fn step(&mut self, byte: u8) {
        if byte == b'\n' && self.is_stream {
            (self.depth, self.way, self.since) = (0, 0, None);
            (self.text, self.key) = (Text::Outside, Key::None);
            return;
        }
        match (self.text, byte) {
            (Text::Escaped, _) => {
                self.text = Text::Inside;
                return self.keep(&[byte]);
            }
            (Text::Inside, b'\\') => {
                self.text = Text::Escaped;
                return self.keep(&[byte]);
            }
            (Text::Inside, b'"') => self.text = Text::Outside,
            (Text::Inside, _) => {}
            (Text::Outside, b'"') => {
                self.text = Text::Inside;
                self.word_length = 0;
            }
            (Text::Outside, b':') => {
                self.key = match &self.word[..self.word_length] {
                    b"usage" | b"usageMetadata" => Key::Usage,
                    // Anthropic's first event, OpenAI's last one, Groq's last chunk, Cohere's last event.
                    b"message" | b"response" | b"x_groq" | b"delta" => Key::Way,
                    _ => Key::Other,
                };
            }
            (Text::Outside, b',') => self.key = Key::None,
            (Text::Outside, b'{' | b'[') => {
                let is_on_way = self.way == self.depth;
                match self.key {
                    Key::Usage if is_on_way && self.depth > 0 && byte == b'{' => {
                        self.usage.clear();
                        self.since = Some(self.depth);
                    }
                    Key::None | Key::Way if is_on_way => self.way += 1,
                    // Before the first one stands `data:`.
                    _ if self.depth == 0 => self.way = 1,
                    _ => {}
                }
                self.depth += 1;
                self.key = Key::None;
            }
            (Text::Outside, b'}' | b']') => {
                self.depth = self.depth.saturating_sub(1);
                self.way = self.way.min(self.depth);
                self.key = Key::None;
                self.gather(&[byte]);
                if self.since == Some(self.depth) {
                    self.since = None;
                    let usage = serde_json::from_slice(&self.usage).ok();
                    self.counted = usage.map_or(self.counted, |usage| {
                        Some(counted(&usage, self.counted.unwrap_or_default()))
                    });
                }
                return;
            }
            (Text::Outside, _) => {}
        }
        self.gather(&[byte]);
    }
}

/// What means something outside of a text.
fn is_sign(byte: &u8) -> bool {
    matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b':' | b',' | b'\n')
}

/// What a usage says, where one before it has said `last`. A stream's later ones may leave out what was
/// read, or divide it otherwise between what was cached and what was not.
fn counted(usage: &Value, last: LlmTokens) -> LlmTokens {
    // Cohere's has those that are billed beside them.
    let usage = usage.get("tokens").unwrap_or(usage);
    let count = |names: &[&str]| {
        let found = names.iter().find_map(|name| usage.pointer(name)?.as_f64());
        // A cast saturates.
        found.filter(|count| *count <= MOST).unwrap_or_default() as u64
    };
    // Of what was read, Anthropic leaves out what it names below.
    let read = count(&["/input_tokens", "/prompt_tokens", "/promptTokenCount"])
        + count(&["/toolUsePromptTokenCount"]);
    let cached = count(&[
        "/input_tokens_details/cached_tokens",
        "/prompt_tokens_details/cached_tokens",
        "/cachedContentTokenCount",
        "/prompt_cache_hit_tokens",
        "/cached_tokens",
    ]);
    let kept = count(&[
        "/input_tokens_details/cache_write_tokens",
        "/prompt_tokens_details/cache_write_tokens",
    ]);
    let written = count(&[
        "/output_tokens",
        "/completion_tokens",
        "/candidatesTokenCount",
    ]) + count(&["/thoughtsTokenCount"]);
    // xAI's output leaves out what its model has thought; the sum does not.
    let beyond = count(&["/total_tokens", "/totalTokenCount"]).saturating_sub(read);
    let [mut input, mut output, mut cache_read, mut cache_written] = [
        read.saturating_sub(cached + kept),
        written.max(beyond),
        cached.min(read) + count(&["/cache_read_input_tokens"]),
        kept.min(read) + count(&["/cache_creation_input_tokens"]),
    ];
    let [was_input, was_output, was_read, was_written] = last.0;
    if input + cache_read + cache_written < was_input + was_read + was_written {
        (input, cache_read, cache_written) = (was_input, was_read, was_written);
    }
    output = output.max(was_output);
    LlmTokens([input, output, cache_read, cache_written])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// What is counted, with the body cut in these pieces.
    fn in_pieces(is_stream: bool, pieces: &[&[u8]]) -> Option<[u64; 4]> {
        let mut meter = Meter::new(is_stream);
        let mut sum = LlmTokens::default();
        for piece in pieces {
            if let Some(more) = meter.read(piece) {
                sum.add(more);
            }
        }
        assert_eq!(meter.counted.unwrap_or_default(), sum);
        meter.counted.map(|counted| counted.0)
    }

    fn of(is_stream: bool, body: &str) -> Option<[u64; 4]> {
        let whole = in_pieces(is_stream, &[body.as_bytes()]);
        let bytes: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
        assert_eq!(in_pieces(is_stream, &bytes), whole, "{body}");
        whole
    }

    fn whole(body: &Value) -> Option<[u64; 4]> {
        // Google indents its answers.
        let pretty = of(false, &format!("{body:#}"));
        assert_eq!(of(false, &body.to_string()), pretty, "{body}");
        pretty
    }

    fn stream(events: &[Value]) -> Option<[u64; 4]> {
        let lines = events.iter().map(|event| {
            let kind = event["type"].as_str().unwrap_or("x");
            format!("event: {kind}\r\ndata: {event}\r\n\r\n")
        });
        of(true, &lines.collect::<String>())
    }

    #[test]
    fn anthropic_counts_cached_tokens_apart() {
        let usage = json!({"input_tokens": 3, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100,
            "cache_creation": {"ephemeral_5m_input_tokens": 20}, "output_tokens": 7, "service_tier": "standard"});
        let body = json!({"content": [{"type": "text", "text": "hi"}], "usage": usage});
        assert_eq!(whole(&body), Some([3, 7, 100, 20]));
        let start = json!({"type": "message_start", "message": {"content": [], "usage": usage}});
        let text = json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a\"}\n"}});
        let delta = |usage: Value| json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage});
        let first = delta(json!({"output_tokens": 10}));
        // Web searches add to what is read.
        let last = delta(json!({"input_tokens": 5, "cache_creation_input_tokens": 20,
            "cache_read_input_tokens": 100, "output_tokens": 40}));
        assert_eq!(
            stream(&[start.clone(), text.clone()]),
            Some([3, 7, 100, 20])
        );
        assert_eq!(
            stream(&[start.clone(), text.clone(), first]),
            Some([3, 10, 100, 20])
        );
        assert_eq!(stream(&[start, text, last]), Some([5, 40, 100, 20]));
    }

    #[test]
    fn openai_counts_cached_tokens_among_those_read() {
        let chat = json!({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 15}});
        assert_eq!(
            whole(&json!({"choices": [], "usage": chat})),
            Some([30, 20, 60, 10])
        );
        let chunk = json!({"choices": [{"delta": {"content": "x"}}], "usage": null});
        let last = json!({"choices": [], "usage": chat});
        assert_eq!(stream(&[chunk.clone(), last]), Some([30, 20, 60, 10]));
        assert_eq!(stream(std::slice::from_ref(&chunk)), None);
        let groq = json!({"choices": [], "x_groq": {"id": "r", "usage": {"prompt_tokens": 5, "completion_tokens": 2}}});
        assert_eq!(stream(&[chunk, groq]), Some([5, 2, 0, 0]));
        let responses = json!({"input_tokens": 50, "input_tokens_details": {"cached_tokens": 8},
            "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 4}, "total_tokens": 59});
        let response = json!({"object": "response", "usage": responses, "output": []});
        assert_eq!(whole(&response), Some([42, 9, 8, 0]));
        let created = json!({"type": "response.created", "response": {"usage": null, "tools": [{"usage": {}}]}});
        let completed = json!({"type": "response.completed", "response": response});
        assert_eq!(stream(&[created, completed]), Some([42, 9, 8, 0]));
    }

    #[test]
    fn others_count_in_their_own_way() {
        let deepseek =
            json!({"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 64});
        assert_eq!(whole(&json!({"usage": deepseek})), Some([36, 5, 64, 0]));
        let xai = json!({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135,
            "completion_tokens_details": {"reasoning_tokens": 94}});
        assert_eq!(whole(&json!({"usage": xai})), Some([32, 103, 0, 0]));
        let cohere = json!({"billed_units": {"input_tokens": 1.0}, "tokens": {"input_tokens": 70.0, "output_tokens": 8.0}});
        assert_eq!(whole(&json!({"usage": cohere})), Some([70, 8, 0, 0]));
        let end =
            json!({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": cohere}});
        assert_eq!(stream(&[end]), Some([70, 8, 0, 0]));
        // Perplexity tells it in each chunk.
        let chunk = |output: u64| json!({"usage": {"prompt_tokens": 4, "completion_tokens": output, "total_tokens": 4 + output}});
        assert_eq!(stream(&[chunk(1), chunk(2), chunk(9)]), Some([4, 9, 0, 0]));
        assert_eq!(
            whole(
                &json!({"data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 6, "total_tokens": 6}})
            ),
            Some([6, 0, 0, 0])
        );
    }

    #[test]
    fn gemini_counts_thoughts_apart_and_repeats_its_sums() {
        let chunk = |more: Value| {
            let mut usage = json!({"promptTokenCount": 200, "totalTokenCount": 200});
            for (name, value) in more.as_object().unwrap() {
                usage[name] = value.clone();
            }
            json!({"candidates": [{"content": {"parts": [{"text": "x"}]}}], "usageMetadata": usage})
        };
        let first = chunk(json!({"thoughtsTokenCount": 30, "totalTokenCount": 230}));
        let last = chunk(
            json!({"cachedContentTokenCount": 150, "candidatesTokenCount": 5,
            "thoughtsTokenCount": 40, "toolUsePromptTokenCount": 10, "totalTokenCount": 255}),
        );
        assert_eq!(whole(&last), Some([60, 45, 150, 0]));
        assert_eq!(
            stream(&[first.clone(), last.clone()]),
            Some([60, 45, 150, 0])
        );
        // Without `alt=sse` it is a list.
        assert_eq!(whole(&json!([first, last])), Some([60, 45, 150, 0]));
    }

    #[test]
    fn what_a_model_writes_is_no_usage() {
        let fake = json!({"input_tokens": 999, "output_tokens": 999, "promptTokenCount": 999});
        let text = fake.to_string();
        for body in [
            json!({"content": [{"type": "tool_use", "input": {"usage": fake, "message": {"usage": fake}}}]}),
            json!({"candidates": [{"content": {"parts": [{"functionCall": {"args": {"usageMetadata": fake}}}]}}]}),
            json!({"choices": [{"message": {"usage": fake, "content": format!("\"usage\":{text}")}}]}),
            json!({"text": format!("\\\"usage\":{text}"), "n\"usage": fake}),
            json!({"response": {"output": [{"usage": fake}], "metadata": {"usage": fake}}}),
            json!({"usage": [fake], "type": "usage"}),
            json!({"error": {"usage": fake}}),
        ] {
            assert_eq!(whole(&body), None, "{body}");
            assert_eq!(stream(&[body.clone(), body]), None);
        }
        assert_eq!(of(true, ": \"usage\":{\"input_tokens\":5\n\n"), None);
    }

    #[test]
    fn what_cannot_be_counted_is_left_alone() {
        let usage = |usage: Value| whole(&json!({ "usage": usage }));
        assert_eq!(usage(json!({})), Some([0; 4]));
        assert_eq!(
            usage(json!({"input_tokens": -5, "output_tokens": 1e300})),
            Some([0; 4])
        );
        assert_eq!(
            usage(json!({"input_tokens": "5", "output_tokens": null})),
            Some([0; 4])
        );
        // It claims more from a cache than it has read.
        let more = json!({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}});
        assert_eq!(usage(more), Some([0, 0, 5, 0]));
        let large = json!({"input_tokens": 5, "more": "x".repeat(LARGEST)});
        assert_eq!(usage(large), None);
        assert_eq!(of(false, "{\"usage\":{\"input_tokens\":5"), None);
        // A line that broke off does not spoil the next one.
        let next =
            "data: {\"usage\":{\"input_tokens\":\"\ndata: {\"usage\":{\"input_tokens\":6}}\n\n";
        assert_eq!(of(true, next), Some([6, 0, 0, 0]));
    }

    /// Pieces of answers, and what may come between.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let known = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"",
            "\\",
            "\n",
            "data: ",
            "\"usage\":{",
            "\"usageMetadata\":",
            "\"message\":{",
            "\"input_tokens\":7",
            "\"output_tokens\":1e12",
            "}\n\n",
            "{\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}",
        ]);
        let piece = prop_oneof![
            4 => known.prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..9),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_count_does_not_depend_on_the_pieces(
            body in body(), is_stream in any::<bool>(), cuts in prop::collection::vec(1usize..30, 1..9),
        ) {
            let whole = in_pieces(is_stream, &[&body]);
            let mut pieces: Vec<&[u8]> = Vec::new();
            let mut rest = &body[..];
            for cut in cuts.iter().cycle() {
                let (piece, tail) = rest.split_at(rest.len().min(*cut));
                pieces.push(piece);
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(in_pieces(is_stream, &pieces), whole);
        }
    }
}
