//! A bundle's ONNX graph: checked whole, then handed to tract, then bound to the weights.
//!
//! A bundle may come from anywhere. tract sees a graph only after everything that it says has
//! been found sound: our operators alone, no tensors, one chain of shapes from the token ids to
//! the logits, every range inside of the weights' file. tract's register holds nothing else.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use prost::Message;
use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::Dimension;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use tract_onnx::prelude::{
    Datum, Framework, InferenceFact, InferenceModelExt, IntoRunnable, ToDim, TypedModel,
    TypedRunnableModel, tvec,
};
use tract_onnx::tract_hir::internal::{InferenceOp, TractResult, TypedOp, bail};
use tract_onnx::tract_hir::ops::expandable::expand;

use super::graph_node::{DOMAIN, Node, VERSION};
use super::kernels::layout::Matrix;
use super::kernels::map::{ALIGNMENT, Map};
use super::ops::{
    Attention, Embed, Extent, GateUp, Linear, Machine, MatrixSpec, Norm, NormSpec, Rope, Unbound,
};

/// A graph of 30 layers has 26 KiB.
const MAX_BYTES: u64 = 4 << 20;
const MAX_NODES: usize = 1 << 14;
/// The graph's input: token ids.
pub(super) const INPUT: &str = "input_ids";
/// The graph's output: the last position's logits.
pub(super) const OUTPUT: &str = "logits";

/// The plan of a graph whose operators hold their weights.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) plan: Arc<TypedRunnableModel>,
    pub(super) shape: Shape,
}

/// What a graph says about its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) vocabulary: usize,
    pub(super) layers: usize,
    pub(super) context: usize,
}

/// A value between nodes.
#[derive(Clone, Copy, PartialEq)]
enum Wire {
    Ids,
    /// Rows of so many floats.
    Rows(usize),
    /// One row.
    Last(usize),
}

/// Reads a graph and binds it to the weights.
pub(super) fn load(path: &Path, weights: &Map, machine: &Arc<Machine>) -> Result<Graph, String> {
    let len = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if len > MAX_BYTES {
        return Err(format!("the graph has {len} bytes, over {MAX_BYTES}"));
    }
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let proto =
        ModelProto::decode(bytes.as_slice()).map_err(|e| format!("not an ONNX file: {e}"))?;
    let shape = check(&proto, weights.len())?;
    let plan = plan(&proto, weights, machine).map_err(|e| format!("{e:#}"))?;
    Ok(Graph { plan, shape })
}

/// Everything that can be wrong with a graph, before anything is built from it.
fn check(proto: &ModelProto, weights: usize) -> Result<Shape, String> {
    let imports =
        |import: &OperatorSetIdProto| import.domain == DOMAIN && import.version == VERSION;
    if !proto.opset_import.iter().any(imports) {
        return Err(format!("it doesn't import {DOMAIN:?}, version {VERSION}"));
    }
    if !proto.functions.is_empty() || !proto.training_info.is_empty() {
        return Err("it holds functions or training data".to_owned());
    }
    let graph = proto.graph.as_ref().ok_or("it holds no graph")?;
    if !graph.initializer.is_empty()
        || !graph.sparse_initializer.is_empty()
        || !graph.value_info.is_empty()
    {
        return Err("it holds tensors or value types".to_owned());
    }
    // Their types are fixed, so tract needn't parse anybody's expressions.
    if graph.input != [ids_info()] {
        return Err("its input is not the expected one".to_owned());
    }
    if graph.node.len() > MAX_NODES {
        return Err(format!("it has over {MAX_NODES} nodes"));
    }
    let mut wires = BTreeMap::from([(INPUT, Wire::Ids)]);
    let mut nodes = Vec::with_capacity(graph.node.len());
    for proto in &graph.node {
        let node = Node::read(proto)
            .and_then(|node| connect(proto, &node, weights, &mut wires).map(|()| node))
            .map_err(|what| format!("node {:?}: {what}", proto.name))?;
        nodes.push(node);
    }
    let Some(Wire::Last(vocabulary)) = wires.get(OUTPUT) else {
        return Err("the output is not the last position's logits".to_owned());
    };
    if graph.output != [logits_info(*vocabulary)] {
        return Err("its output is not the expected one".to_owned());
    }
    shape(&nodes, *vocabulary)
}

/// Checks a node against its inputs and the weights' file, and notes its output.
fn connect<'a>(
    proto: &'a NodeProto,
    node: &Node,
    weights: usize,
    wires: &mut BTreeMap<&'a str, Wire>,
) -> Result<(), String> {
    let inputs = proto
        .input
        .iter()
        .map(|name| wires.get(name.as_str()).copied())
        .collect::<Option<Vec<_>>>()
        .ok_or("an input is not an earlier node's output")?;
    let wanted = |columns, residual| match inputs.as_slice() {
        [x] => *x == Wire::Rows(columns),
        [x, r] => *x == Wire::Rows(columns) && Some(*r) == residual,
        _ => false,
    };
    let (fits, output) = match node {
        Node::Embed(spec) => (inputs == [Wire::Ids], Wire::Rows(spec.matrix.columns)),
        Node::Linear(spec) if spec.last => (
            wanted(spec.matrix.columns, None),
            Wire::Last(spec.matrix.rows),
        ),
        Node::Linear(spec) => {
            let output = Wire::Rows(spec.matrix.rows);
            (wanted(spec.matrix.columns, Some(output)), output)
        }
        Node::GateUp(spec) => (wanted(spec.gate.columns, None), Wire::Rows(spec.gate.rows)),
        Node::Attention(spec) => (
            wanted(spec.input_width(), None),
            Wire::Rows(spec.heads * spec.dimension),
        ),
    };
    if !fits {
        return Err("its inputs don't have the shapes that it needs".to_owned());
    }
    for extent in extents(node)? {
        let end = extent.offset.checked_add(extent.len);
        if !extent.offset.is_multiple_of(ALIGNMENT) || end.is_none_or(|end| end > weights) {
            return Err(format!(
                "the range {}+{} is misaligned or not inside of the weights' {weights} bytes",
                extent.offset, extent.len
            ));
        }
    }
    let [name] = proto.output.as_slice() else {
        return Err("it must have one output".to_owned());
    };
    if name.is_empty() || wires.insert(name, output).is_some() {
        return Err("its output has no name, or another's".to_owned());
    }
    Ok(())
}

/// The ranges of the weights' file that a node names.
fn extents(node: &Node) -> Result<Vec<Extent>, String> {
    let norm = |norm: &NormSpec, columns: usize| {
        if norm.weights.len == 4 * columns {
            Ok(norm.weights)
        } else {
            Err("the normalisation has another width than the matrix".to_owned())
        }
    };
    Ok(match node {
        Node::Embed(spec) => vec![spec.matrix.extent],
        Node::Linear(spec) => {
            let mut list = vec![spec.matrix.extent];
            if let Some(spec_norm) = &spec.norm {
                list.push(norm(spec_norm, spec.matrix.columns)?);
            }
            list
        }
        Node::GateUp(spec) => vec![
            spec.gate.extent,
            spec.up.extent,
            norm(&spec.norm, spec.gate.columns)?,
        ],
        Node::Attention(_) => vec![],
    })
}

fn shape(nodes: &[Node], vocabulary: usize) -> Result<Shape, String> {
    let mut contexts = nodes.iter().filter_map(|node| match node {
        Node::Attention(spec) => Some(spec.context),
        _ => None,
    });
    let layers = contexts.clone().count();
    let context = contexts.next().ok_or("it has no attention")?;
    if contexts.any(|other| other != context) {
        return Err("its attentions have different contexts".to_owned());
    }
    let embedded = nodes.iter().find_map(|node| match node {
        Node::Embed(spec) => Some(spec.matrix.rows),
        _ => None,
    });
    if embedded != Some(vocabulary) {
        return Err("embedding and head have different vocabularies".to_owned());
    }
    Ok(Shape {
        vocabulary,
        layers,
        context,
    })
}

/// tract's plan of a checked graph.
fn plan(
    proto: &ModelProto,
    weights: &Map,
    machine: &Arc<Machine>,
) -> TractResult<Arc<TypedRunnableModel>> {
    let mut onnx = tract_onnx::Onnx::default();
    register(&mut onnx.op_register);
    let mut model = onnx.model_for_proto_model(proto)?;
    let positions = model.symbols.sym("S");
    model.symbols.add_assertion("S>=1")?;
    let ids = tvec!(1.to_dim(), positions.to_dim());
    model.set_input_fact(0, InferenceFact::dt_shape(i64::datum_type(), ids))?;
    model.set_output_fact(0, InferenceFact::default())?;
    let mut model = model.into_typed()?;
    bind(&mut model, weights, machine)?;
    model.into_decluttered()?.into_optimized()?.into_runnable()
}

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

fn register(register: &mut OnnxOpRegister) {
    for name in ["Embed", "Linear", "Attention", "GateUp"] {
        register.insert(name, build);
    }
}

/// Makes an unbound operator.
fn build(_context: &ParsingContext, proto: &NodeProto) -> Built {
    match Node::read(proto) {
        Ok(Node::Embed(spec)) => unbound(Embed::new(spec), spec.matrix.columns, false),
        Ok(Node::Linear(spec)) => unbound(Linear::new(spec), spec.matrix.rows, spec.last),
        Ok(Node::GateUp(spec)) => unbound(GateUp::new(spec), spec.gate.rows, false),
        Ok(Node::Attention(spec)) => {
            unbound(Attention::new(spec), spec.heads * spec.dimension, false)
        }
        Err(what) => bail!("{what}"),
    }
}

fn unbound<O: TypedOp + Clone>(op: O, width: usize, last: bool) -> Built {
    TractResult::Ok((expand(Unbound::new(op, width, last)), vec![]))
}

/// Gives every operator its weights.
fn bind(model: &mut TypedModel, weights: &Map, machine: &Arc<Machine>) -> TractResult<()> {
    let mut ropes: Vec<Arc<Rope>> = Vec::new();
    for node in model.nodes_mut() {
        let op = &mut node.op;
        if let Some(op) = op.downcast_mut::<Linear>() {
            let spec = op.spec();
            let norm = spec.norm.map(|norm| norm_of(&norm, weights)).transpose()?;
            op.bind(matrix_of(&spec.matrix, weights)?, norm, machine.clone());
        } else if let Some(op) = op.downcast_mut::<GateUp>() {
            let spec = op.spec();
            let (gate, up) = (
                matrix_of(&spec.gate, weights)?,
                matrix_of(&spec.up, weights)?,
            );
            op.bind(gate, up, norm_of(&spec.norm, weights)?, machine.clone());
        } else if let Some(op) = op.downcast_mut::<Embed>() {
            op.bind(matrix_of(&op.spec().matrix, weights)?);
        } else if let Some(op) = op.downcast_mut::<Attention>() {
            let spec = op.spec();
            let (base, dimension) = (spec.rope_base, spec.dimension);
            let known = ropes
                .iter()
                .find(|rope| rope.serves(base, dimension, spec.context));
            let rope = match known {
                Some(rope) => rope.clone(),
                None => {
                    let rope = Arc::new(Rope::new(base, dimension, spec.context));
                    ropes.push(rope.clone());
                    rope
                }
            };
            op.bind(rope, machine.clone());
        } else if !node.inputs.is_empty() {
            bail!("tract made an operator that isn't ours: {}", node.op.name());
        }
    }
    TractResult::Ok(())
}

pub(super) fn matrix_of(spec: &MatrixSpec, weights: &Map) -> TractResult<Matrix> {
    let Some(region) = weights.region(spec.extent.offset, spec.extent.len) else {
        bail!("a matrix lies outside of the weights");
    };
    TractResult::Ok(Matrix::new(spec.format, spec.rows, spec.columns, region)?)
}

pub(super) fn norm_of(spec: &NormSpec, weights: &Map) -> TractResult<Norm> {
    let Some(region) = weights.region(spec.weights.offset, spec.weights.len) else {
        bail!("a normalisation lies outside of the weights");
    };
    TractResult::Ok(Norm {
        weights: region.floats().into(),
        epsilon: spec.epsilon,
    })
}

/// Writes a graph: nodes with the names of their inputs and outputs.
pub(super) fn write(node: Vec<NodeProto>, vocabulary: usize) -> Vec<u8> {
    let graph = GraphProto {
        node,
        name: "model".to_owned(),
        input: vec![ids_info()],
        output: vec![logits_info(vocabulary)],
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: 10,
        opset_import: vec![OperatorSetIdProto {
            domain: DOMAIN.to_owned(),
            version: VERSION,
        }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    model.encode_to_vec()
}

fn ids_info() -> ValueInfoProto {
    let positions = Dim::DimParam("S".to_owned());
    value_info(INPUT, DataType::Int64, [Dim::DimValue(1), positions])
}

fn logits_info(vocabulary: usize) -> ValueInfoProto {
    let dims = [1, 1, vocabulary as i64].map(Dim::DimValue);
    value_info(OUTPUT, DataType::Float, dims)
}

fn value_info(name: &str, kind: DataType, dims: impl IntoIterator<Item = Dim>) -> ValueInfoProto {
    let dim = dims.into_iter().map(|value| Dimension {
        value: Some(value),
        ..Dimension::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: kind as i32,
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}
