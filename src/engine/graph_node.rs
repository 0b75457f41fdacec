//! One node of a bundle's graph: its attributes, read strictly and written.
//!
//! What a [`Node`] says about itself is sound: known names and types only, sizes that a matrix in
//! the layout can have, numbers in their ranges. Whether it fits its neighbours and the weights'
//! file is [`super::graph`]'s matter.

use std::collections::BTreeMap;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};

use super::kernels::HEAD_DIMENSIONS;
use super::kernels::layout::Format;
use super::ops::{
    AttentionSpec, EmbedSpec, Extent, GateUpSpec, LinearSpec, MAX_PLANES, MatrixSpec, NormSpec,
};

/// The domain of our operators.
pub(super) const DOMAIN: &str = "slmd";
/// Its version.
pub(super) const VERSION: i64 = 1;
/// No dimension of a model for one box is larger.
const MAX_DIMENSION: i64 = 1 << 24;
const MAX_HEADS: i64 = 1024;

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Node {
    Embed(EmbedSpec),
    Linear(LinearSpec),
    Attention(AttentionSpec),
    GateUp(GateUpSpec),
}

/// A node's attributes that haven't been looked at yet.
struct Attributes<'a>(BTreeMap<&'a str, &'a AttributeProto>);

impl Node {
    pub(super) fn read(proto: &NodeProto) -> Result<Node, String> {
        if proto.domain != DOMAIN {
            return Err(format!(
                "operator {:?} is of domain {:?}; only {DOMAIN:?} is allowed",
                proto.op_type, proto.domain
            ));
        }
        let mut attributes = Attributes::new(proto)?;
        let node = match proto.op_type.as_str() {
            "Embed" => Node::Embed(EmbedSpec {
                matrix: attributes.matrix("weights")?,
            }),
            "Linear" => Node::Linear(LinearSpec {
                matrix: attributes.matrix("weights")?,
                norm: attributes
                    .has("norm")
                    .then(|| attributes.norm())
                    .transpose()?,
                planes: attributes.planes()?,
                last: attributes.has("last") && attributes.integer("last", 1)? == 1,
            }),
            "GateUp" => {
                let gate = attributes.matrix("gate")?;
                Node::GateUp(GateUpSpec {
                    gate,
                    up: MatrixSpec {
                        extent: attributes.extent("up", Some(gate.extent.len))?,
                        ..gate
                    },
                    norm: attributes.norm()?,
                    planes: attributes.planes()?,
                })
            }
            "Attention" => Node::Attention(attributes.attention()?),
            other => return Err(format!("operator {other:?} is unknown")),
        };
        attributes.finish()?;
        Ok(node)
    }

    pub(super) fn write(&self) -> NodeProto {
        let (op_type, attribute) = match self {
            Node::Embed(spec) => ("Embed", matrix("weights", &spec.matrix)),
            Node::Linear(spec) => {
                let mut list = matrix("weights", &spec.matrix);
                list.extend(spec.norm.iter().flat_map(norm));
                list.extend(planes(spec.planes));
                if spec.last {
                    list.push(integer("last", 1));
                }
                ("Linear", list)
            }
            Node::GateUp(spec) => {
                let mut list = matrix("gate", &spec.gate);
                list.push(extent("up", spec.up.extent));
                list.extend(norm(&spec.norm));
                list.extend(planes(spec.planes));
                ("GateUp", list)
            }
            Node::Attention(spec) => {
                let list = vec![
                    integer("heads", spec.heads),
                    integer("cached_heads", spec.cached_heads),
                    integer("dimension", spec.dimension),
                    float("rope_base", spec.rope_base),
                    integer("context", spec.context),
                ];
                ("Attention", list)
            }
        };
        NodeProto {
            op_type: op_type.to_owned(),
            domain: DOMAIN.to_owned(),
            attribute,
            ..NodeProto::default()
        }
    }
}

impl<'a> Attributes<'a> {
    fn new(proto: &'a NodeProto) -> Result<Attributes<'a>, String> {
        let mut attributes = BTreeMap::new();
        for attribute in &proto.attribute {
            if attributes
                .insert(attribute.name.as_str(), attribute)
                .is_some()
            {
                return Err(format!("attribute {:?} occurs twice", attribute.name));
            }
        }
        Ok(Attributes(attributes))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn take(&mut self, name: &str, kind: AttributeType) -> Result<&'a AttributeProto, String> {
        let attribute = self
            .0
            .remove(name)
            .ok_or_else(|| format!("attribute {name:?} is missing"))?;
        if attribute.r#type == kind as i32 {
            Ok(attribute)
        } else {
            Err(format!("attribute {name:?} has the wrong type"))
        }
    }

    /// A whole number from 1 to `most`.
    fn integer(&mut self, name: &str, most: i64) -> Result<usize, String> {
        let value = self.take(name, AttributeType::Int)?.i;
        usize::try_from(value)
            .ok()
            .filter(|_| (1..=most).contains(&value))
            .ok_or_else(|| format!("attribute {name:?} is {value}, not from 1 to {most}"))
    }

    /// Planes of the activations; one where nothing is said.
    fn planes(&mut self) -> Result<usize, String> {
        match self.has("planes") {
            true => self.integer("planes", MAX_PLANES as i64),
            false => Ok(1),
        }
    }

    /// A positive, finite number.
    fn float(&mut self, name: &str) -> Result<f32, String> {
        let value = self.take(name, AttributeType::Float)?.f;
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            Err(format!("attribute {name:?} is {value}, not positive"))
        }
    }

    /// Offset and length; the length must be what is needed.
    fn extent(&mut self, name: &str, needed: Option<usize>) -> Result<Extent, String> {
        let values = &self.take(name, AttributeType::Ints)?.ints;
        let extent = match values.as_slice() {
            [offset, len] => usize::try_from(*offset)
                .ok()
                .zip(usize::try_from(*len).ok())
                .map(|(offset, len)| Extent { offset, len }),
            _ => None,
        };
        match extent {
            Some(extent) if Some(extent.len) == needed => Ok(extent),
            _ => Err(format!(
                "attribute {name:?} is {values:?}, not an offset and the length {needed:?}"
            )),
        }
    }

    fn matrix(&mut self, name: &str) -> Result<MatrixSpec, String> {
        let rows = self.integer("rows", MAX_DIMENSION)?;
        let columns = self.integer("columns", MAX_DIMENSION)?;
        let format = &self.take("format", AttributeType::String)?.s;
        let format = std::str::from_utf8(format)
            .ok()
            .and_then(Format::parse)
            .ok_or("the block format is unknown")?;
        let needed = format.size(rows, columns);
        if needed.is_none() {
            return Err(format!(
                "{rows} rows × {columns} columns: rows must be a multiple of 8, columns of 32"
            ));
        }
        Ok(MatrixSpec {
            rows,
            columns,
            format,
            extent: self.extent(name, needed)?,
        })
    }

    /// The normalisation; that it has as many weights as the matrix has columns is checked by
    /// [`super::graph`], which knows both.
    fn norm(&mut self) -> Result<NormSpec, String> {
        let len = self.0.get("norm").and_then(|a| a.ints.get(1)).copied();
        let len = len.and_then(|len| usize::try_from(len).ok());
        Ok(NormSpec {
            weights: self.extent("norm", len)?,
            epsilon: self.float("epsilon")?,
        })
    }

    fn attention(&mut self) -> Result<AttentionSpec, String> {
        let spec = AttentionSpec {
            heads: self.integer("heads", MAX_HEADS)?,
            cached_heads: self.integer("cached_heads", MAX_HEADS)?,
            dimension: self.integer("dimension", MAX_DIMENSION)?,
            rope_base: self.float("rope_base")?,
            context: self.integer("context", MAX_DIMENSION)?,
        };
        if !spec.heads.is_multiple_of(spec.cached_heads) {
            return Err("the cached heads don't divide the heads".to_owned());
        }
        if !HEAD_DIMENSIONS.contains(&spec.dimension) {
            return Err(format!(
                "a head has {} dimensions; {HEAD_DIMENSIONS:?} are supported",
                spec.dimension
            ));
        }
        Ok(spec)
    }

    fn finish(self) -> Result<(), String> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("attribute {name:?} is unknown")),
        }
    }
}

fn matrix(name: &str, spec: &MatrixSpec) -> Vec<AttributeProto> {
    let format = AttributeProto {
        s: spec.format.name().as_bytes().to_vec(),
        ..attribute("format", AttributeType::String)
    };
    vec![
        integer("rows", spec.rows),
        integer("columns", spec.columns),
        format,
        extent(name, spec.extent),
    ]
}

fn norm(spec: &NormSpec) -> [AttributeProto; 2] {
    [extent("norm", spec.weights), float("epsilon", spec.epsilon)]
}

fn planes(planes: usize) -> Option<AttributeProto> {
    (planes > 1).then(|| integer("planes", planes))
}

fn extent(name: &str, extent: Extent) -> AttributeProto {
    AttributeProto {
        ints: vec![extent.offset as i64, extent.len as i64],
        ..attribute(name, AttributeType::Ints)
    }
}

fn integer(name: &str, value: usize) -> AttributeProto {
    AttributeProto {
        i: value as i64,
        ..attribute(name, AttributeType::Int)
    }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        f: value,
        ..attribute(name, AttributeType::Float)
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: kind as i32,
        ..AttributeProto::default()
    }
}
