//! YAML text to [`Node`]s, within bounds: depth, nodes (those that aliases repeat included) and unique keys.

use std::{borrow::Cow, collections::BTreeMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::node::{Entry, Node, Style, Value};
use crate::Code;

/// Deepest nesting of lists and mappings.
const MAX_DEPTH: usize = 64;
/// Most values in one file, with what aliases repeat counted each time.
const MAX_NODES: usize = 200_000;
/// Most bytes of text in one file, with what aliases repeat counted each time.
const MAX_TEXT_BYTES: usize = 16 * 1024 * 1024;
/// Most keys of one mapping.
const MAX_KEYS: usize = 4096;

/// Something wrong with the text itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextFault {
    pub(crate) line: usize,
    pub(crate) code: Code,
    pub(crate) text: String,
    pub(crate) hint: Option<&'static str>,
}

/// The documents of one file (empty ones left out), as far as they can be told, and every fault of its text.
pub(crate) fn parse(text: &str) -> (Vec<Node>, Vec<TextFault>) {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let result = match next {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => Err(TextFault {
                line: error.marker().line(),
                code: Code::Syntax,
                text: format!("not YAML: {}", error.info()),
                hint: Some("check the indentation, colons and quotes here and in the lines above"),
            }),
        };
        if let Err(fault) = result {
            builder.faults.push(fault);
            break;
        }
    }
    (builder.documents, builder.faults)
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    faults: Vec<TextFault>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, (Node, Weight)>,
    total: Weight,
}

/// How much a value is, to bound what aliases multiply.
#[derive(Clone, Copy, Default)]
struct Weight {
    nodes: usize,
    bytes: usize,
}

/// A list or mapping whose end has not come yet.
struct Open {
    line: usize,
    anchor: usize,
    weight: Weight,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping {
        entries: Vec<Entry>,
        key: Option<(String, usize)>,
    },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), TextFault> {
        let line = span.start.line();
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag, line),
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), line)?;
                self.open(line, anchor, Content::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), line)?;
                let content = Content::Mapping {
                    entries: Vec::new(),
                    key: None,
                };
                self.open(line, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => {
                let Some((mut node, weight)) = self.anchors.get(&anchor).cloned() else {
                    let text = "an alias to a value that is not complete".to_owned();
                    return Err(fault(line, Code::Syntax, text));
                };
                if self.total.bytes + weight.bytes > MAX_TEXT_BYTES {
                    let text =
                        format!("more than {MAX_TEXT_BYTES} bytes, counting what aliases repeat");
                    return Err(fault(line, Code::TooLarge, text));
                }
                node.line = line;
                self.add(node, weight, 0)
            }
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
        line: usize,
    ) -> Result<(), TextFault> {
        let mut style = match style {
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::Literal => Style::Literal,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted | ScalarStyle::Folded => {
                Style::Quoted
            }
        };
        match tag.as_deref() {
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => {
                if style == Style::Plain {
                    style = Style::Quoted;
                }
            }
            other => refuse_tag(other, line)?,
        }
        let weight = Weight {
            nodes: 1,
            bytes: text.len(),
        };
        let value = Value::Scalar {
            text: text.into_owned(),
            style,
        };
        let line = match style {
            Style::Literal => self.line_of_indicator(line),
            Style::Plain | Style::Quoted => line,
        };
        self.add(Node { line, value }, weight, anchor)
    }

    /// The line of `|`, which is its key's; the parser only tells where the text begins.
    fn line_of_indicator(&self, text: usize) -> usize {
        match self.open.last().map(|open| &open.content) {
            Some(Content::Mapping {
                key: Some((_, line)),
                ..
            }) => *line,
            _ => text.saturating_sub(1),
        }
    }

    fn open(&mut self, line: usize, anchor: usize, content: Content) -> Result<(), TextFault> {
        if self.open.len() >= MAX_DEPTH {
            let text = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(fault(line, Code::TooLarge, text));
        }
        self.open.push(Open {
            line,
            anchor,
            weight: Weight::default(),
            content,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), TextFault> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.content {
            Content::Sequence(elements) => Value::Sequence(elements),
            Content::Mapping { entries, .. } => Value::Mapping(entries),
        };
        let node = Node {
            line: open.line,
            value,
        };
        // What is inside has been counted in the total already.
        self.total.nodes = self.total.nodes.saturating_sub(open.weight.nodes);
        self.total.bytes = self.total.bytes.saturating_sub(open.weight.bytes);
        let weight = Weight {
            nodes: open.weight.nodes + 1,
            bytes: open.weight.bytes,
        };
        self.add(node, weight, open.anchor)
    }

    /// Puts a complete value where it belongs.
    fn add(&mut self, node: Node, weight: Weight, anchor: usize) -> Result<(), TextFault> {
        self.total.nodes = self.total.nodes.saturating_add(weight.nodes);
        self.total.bytes = self.total.bytes.saturating_add(weight.bytes);
        if self.total.nodes > MAX_NODES {
            let text =
                format!("more than {MAX_NODES} values in one file, counting what aliases repeat");
            return Err(fault(node.line, Code::TooLarge, text));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        let Some(parent) = self.open.last_mut() else {
            if !node.is_null() {
                self.documents.push(node);
            }
            return Ok(());
        };
        parent.weight.nodes += weight.nodes;
        parent.weight.bytes += weight.bytes;
        match &mut parent.content {
            Content::Sequence(elements) => elements.push(node),
            Content::Mapping { entries, key } => match key.take() {
                None => *key = Some(as_key(node)?),
                Some((key, line)) => {
                    if entries.len() >= MAX_KEYS {
                        let text = format!("a mapping of more than {MAX_KEYS} keys");
                        return Err(fault(line, Code::TooLarge, text));
                    }
                    if let Some(first) = entries.iter().find(|e| e.key == key) {
                        let text = format!(
                            "the key {key:?} stands here twice, first in line {}",
                            first.line
                        );
                        self.faults.push(TextFault {
                            line,
                            code: Code::DuplicateKey,
                            text,
                            hint: Some("keep one of the two"),
                        });
                    } else {
                        entries.push(Entry {
                            key,
                            line,
                            value: node,
                        });
                    }
                }
            },
        }
        Ok(())
    }
}

fn as_key(node: Node) -> Result<(String, usize), TextFault> {
    match node.value {
        Value::Scalar { text, .. } if text == "<<" => {
            let text = "merge keys (<<) are not supported".to_owned();
            Err(fault(node.line, Code::Unsupported, text))
        }
        Value::Scalar { text, .. } => Ok((text, node.line)),
        Value::Sequence(_) | Value::Mapping(_) => {
            let text = "a key is text, not a list or mapping".to_owned();
            Err(fault(node.line, Code::Syntax, text))
        }
    }
}

fn refuse_tag(tag: Option<&Tag>, line: usize) -> Result<(), TextFault> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "map" | "seq") => {
            Ok(())
        }
        Some(tag) => Err(fault(
            line,
            Code::Unsupported,
            format!("the tag {tag} is not supported"),
        )),
    }
}

fn fault(line: usize, code: Code, text: String) -> TextFault {
    TextFault {
        line,
        code,
        text,
        hint: None,
    }
}
