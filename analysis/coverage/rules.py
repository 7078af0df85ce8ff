"""Which additions are blocks, class by class, from reading each class's forward.

`additions.py` lists the modules whose forward adds. This file classifies their additions:

- `BLOCKS`: every addition is a block, ``x + f(x)`` with layers in f. A ViT block makes two; an inverted residual
  makes one, or none where it changes the shape.
- `SUMS`: each call makes the given number of blocks, however many additions that takes.
- `EITHER`: blocks by their form but not by their name, which are right whether they are counted or not: merges of a
  feature pyramid, sums of several depths within a branch, the extra branches of re-parametrised convolutions.
- `NONE`: no block, for the reason that is said.

A class that is not listed is reported, so that every addition of every model is classified. Names are
``file.Class``, with ``*`` for what may vary; the first of `SUMS`, `NONE`, `EITHER`, `BLOCKS` that names a class
decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from additions import Site
from torch import nn

BLOCKS: dict[str, str] = {
    "torch": "transformer.TransformerEncoderLayer transformer.TransformerDecoderLayer",
    "torchvision": """resnet.BasicBlock resnet.Bottleneck regnet.ResBottleneckBlock convnext.CNBlock
        mobilenetv2.InvertedResidual mobilenetv3.InvertedResidual efficientnet.MBConv efficientnet.FusedMBConv
        mnasnet._InvertedResidual swin_transformer.SwinTransformerBlock swin_transformer.SwinTransformerBlockV2
        vision_transformer.EncoderBlock maxvit.MBConv maxvit.PartitionAttentionLayer""",
    "timm": """beit.Block byobnet.BasicBlock byobnet.BottleneckBlock byobnet.DarkBlock byobnet.EdgeBlock
        byobnet.SelfAttnBlock cait.LayerScaleBlock coat.ConvPosEnc coat.SerialBlock convit.Block convmixer.Residual
        convnext.ConvNeXtBlock cpubone.ResidualBlock vision_transformer.Block crossvit.CrossAttentionBlock
        csatv2.PosConv csatv2.SpatialTransformerBlock csatv2.Block csatv2.TransformerBlock cspnet.DarkBlock
        cspnet.BottleneckBlock cspnext.CspNextBlock davit.ConvPosEnc davit.SpatialBlock davit.ChannelBlock
        deepseek_vit.DeepseekVitBlock dla.DlaBasic dla.DlaBottleneck dpn.DualPathBlock edgenext.ConvBlock
        efficientformer.MetaBlock?d efficientformer_v2.EfficientFormerV2Block efficientformer_v2.Downsample
        _efficientnet_blocks.* efficientvim.PatchMerging efficientvit_mit.ResidualBlock
        efficientvit_msra.ResidualDrop eva.EvaBlock fasternet.MLPBlock fastvit.RepMixerBlock
        focalnet.FocalNetBlock gcvit.MbConvBlock gcvit.GlobalContextVitBlock gemma4_vit.Gemma4Block
        ghostnet.GhostBottleneck hgnet.HighPerfGpuBlock hiera.HieraBlock hieradet_sam2.MultiScaleBlock
        iformer.Residual inception_next.MetaNeXtBlock inception_resnet_v2.Block* levit.LevitBlock
        levit.LevitDownsample lowformer.ResidualBlock mambaout.GatedConvBlock maxxvit.MbConvBlock
        maxxvit.PartitionAttentionCl maxxvit.TransformerBlock2d maxxvit.ConvNeXtBlock metaformer.MetaFormerBlock
        mlp_mixer.SpatialGatingBlock mlp_mixer.MixerBlock mlp_mixer.ResBlock mobilevit.LinearTransformerBlock
        mvitv2.MultiScaleBlock nest.TransformerLayer nextvit.NextConvBlock nextvit.NextTransformerBlock
        nfnet.NormFreeBlock non_local_attn.BatNonLocalAttn pvt_v2.Block regnet.Bottleneck
        repghost.RepGhostBottleneck repvit.RepViTBlock repvit.RepVitDownsample resnest.ResNestBottleneck
        resnet.BasicBlock resnet.Bottleneck resnetv2.PreActBasic resnetv2.PreActBottleneck rexnet.LinearBottleneck
        senet.SEResNe* sequencer.Sequencer2dBlock shvit.Residual sknet.SelectiveKernelBasic starnet.Block
        swiftformer.ConvEncoder swiftformer.LocalRepresentation swiftformer.Block
        swin_transformer.SwinTransformerBlock swin_transformer_v2.SwinTransformerV2Block
        swin_transformer_v2_cr.SwinTransformerV2CrBlock tiny_vit.MBConv tiny_vit.TinyVitBlock tresnet.BasicBlock
        tresnet.Bottleneck twins.Block twins.PosConv visformer.Block vision_transformer_relpos.RelPosBlock
        vision_transformer_sam.Block vitamin.MbConvLNBlock volo.Outlooker volo.Transformer volo.ClassBlock
        vovnet.OsaBlock xception.Block xception_aligned.* xcit.XCABlock xcit.ClassAttentionBlock
        attention_pool.AttentionPoolLatent""",
    "transformers": """*Layer *SelfOutput *Output *Block *FeedForward modeling_mpnet.MPNetAttention *AlbertAttention
        *BloomAttention *BloomMLP *MptMLP *InvertedResidual *T5Layer* *OutputBottleneck *ConvDropoutLayerNorm
        *PositionwiseFFN *FunnelDecoder *PoolingHead *Swin2SRModel *Swin2SRStage *LocalRepresentation *ConvEncoder
        *.Wav2Vec2Encoder *.HubertEncoder *.WavLMEncoder *.UniSpeechEncoder *.Data2VecAudioEncoder""",
    "pytorchcv": """*Unit *Body *Stage *.Hourglass erfnet.FCU esnet.PFCU dabnet.DABBlock cgnet.CGBlock
        *.LinearBottleneck dla.DLAResBlock revnet.ReversibleBlock resattnet.ResBlock resattnet.DoubleSkipBlock
        espnetv2.ESPBlock fishnet.FishBlock""",
    "segmentation_models_pytorch": """mix_transformer.Block _efficientnet.MBConvBlock _senet.SEResNetBottleneck
        _dpn.DualPathBlock decoder.DecoderBlock""",
    "monai": """resnet.ResNetBlock resnet.ResNetBottleneck squeeze_and_excitation.SEResNetBottleneck
        segresnet.SegResNet segresnet_block.ResBlock segresnet_ds.* convolutions.ResidualUnit
        dynunet_block.UnetResBlock vnet.* transformerblock.TransformerBlock swin_unetr.SwinTransformerBlock
        highresnet.HighResBlock efficientnet.MBConvBlock mednext.MedNeXt mednext_block.*
        diffusion_model_unet.DiffusionUNetResnetBlock spatialattention.SpatialAttentionBlock
        restormer.MDTATransformerBlock restormer.Restormer""",
    "vit_pytorch": "*Transformer* *Residual *.PEG *.MV2Block",
    "x_transformers": "x_transformers.Residual",
    "torchaudio": """conformer.ConformerLayer emformer._EmformerLayer _hdemucs._DConv _hdemucs._BLSTM
        _hdemucs._HDecLayer""",
    "diffusers": """resnet.ResnetBlock2D attention_processor.Attention transformer_2d.Transformer2DModel
        attention.BasicTransformerBlock""",
    "super_image": """modeling_edsr.* modeling_rcan.* modeling_msrn.MsrBlock modeling_carn.ResidualBlock
        modeling_awsrn.LFB modeling_awsrn.AWRU""",
    "efficientnet_pytorch": "model.MBConvBlock",
    "facenet_pytorch": "inception_resnet_v1.Block*",
    "conformer": "conformer.ConformerBlock",
    "mlp_mixer_pytorch": "*Residual",
    "g_mlp_pytorch": "*Residual",
    "pretrainedmodels": "senet.SEResNetBottleneck dpn.DualPathBlock xception.Block fbresnet.Bottleneck",
    "dynamic_network_architectures": "residual.*",
}

PerCall = int | None | Callable[[nn.Module], int]  # None: as many as it adds


def _with_identity(module: nn.Module) -> int:
    """Re-parametrised convolutions add their input (normed) where the shape stays, and else only convolutions."""
    names = ("identity", "rbr_skip", "skip", "rpr_skip")
    return int(any(getattr(module, name, None) is not None for name in names))


def _two_a_feed_forward(module: nn.Module) -> int:
    layers: list[nn.Module] = list(module.ffns)  # type: ignore[arg-type]
    return 2 * len(layers)


SUMS: dict[str, dict[str, PerCall]] = {
    "timm": {
        "efficientformer.MetaBlock2d": 1,  # the other branch pools, and has no layer (as in FNet)
        "byobnet.RepVggBlock": _with_identity, "byobnet.MobileOneBlock": _with_identity,
        "fastvit.MobileOneBlock": _with_identity, "fastvit.RepMixer": 1, "repvit.RepVggDw": 1,
        "vision_transformer.ParallelScalingBlock": 1, "cait.LayerScaleBlockClassAttn": 2, "coat.ParallelBlock": 6,
        "efficientvim.EfficientViMBlock": 4, "res2net.Bottle2neck": 1, "dla.DlaBottle2neck": 1,
        "edgenext.SplitTransposeBlock": 2, "ghostnet.GhostBottleneckV3": 1, "tnt.Block": 4,
    },
    "transformers": {
        "*GPTJBlock": 1, "*CodeGenBlock": 1, "*CohereDecoderLayer": 1, "*PhiDecoderLayer": 1,
        "*FalconDecoderLayer": 1, "*GPTNeoXLayer": 1, "*XLNetRelativeAttention": 1, "*XLMModel": _two_a_feed_forward,
        "*FunnelRelMultiheadAttention": 1, "*DetrDecoderLayer": None,
    },
    "pytorchcv": {"shakeshakeresnet_cifar.ShakeShakeResUnit": 1},
    "segmentation_models_pytorch": {"mobileone.MobileOneBlock": _with_identity},
    "vit_pytorch": {"cait.Transformer": None, "xcit.Transformer": None},
    "torchaudio": {
        "conv_tasnet.MaskGenerator": lambda module: len(module.conv_layers) - 1,  # type: ignore[arg-type]
        "_hdemucs._LocalState": 1,  # its other addition is of a decay to attention scores
    },
}  # fmt: skip

_POSITIONS = "adds positions to queries, keys, scores or embeddings"
_NO_LAYER = "no layer in the branch"
_HEADS = "the mean of two heads"
_BOXES = "decodes boxes"
NONE: dict[str, dict[str, str]] = {
    "torchvision": {
        "rpn.RegionProposalNetwork": _BOXES, "roi_heads.RoIHeads": _BOXES, "retinanet.RetinaNet": _BOXES,
        "ssd.SSD": _BOXES,
    },
    "timm": {
        "*.PosEmbedRel": _POSITIONS, "*.AttentionRope": _POSITIONS, "eva.EvaAttention": _POSITIONS,
        "*Gemma4Attention": _POSITIONS, "grn.GlobalResponseNorm": _NO_LAYER, "*.Pooling": _NO_LAYER,
        "*Distilled": _HEADS, "efficientformer.EfficientFormer": _HEADS, "pit.PoolingVisionTransformer": _HEADS,
        "efficientformer_v2.EfficientFormerV2": _HEADS, "repvit.RepVitClassifier": _HEADS,
        "swiftformer.SwiftFormer": _HEADS, "volo.VOLO": _HEADS, "csatv2.LearnableDct2d": "changes the colour space",
        "fastvit.ReparamLargeKernelConv": "two convolutions side by side",
    },
    "transformers": {
        "*Embeddings": _POSITIONS, "*NewGELUActivation": _NO_LAYER, "*PoolFormerPooling": _NO_LAYER,
        "*GRN": _NO_LAYER, "*M2M100Encoder": _POSITIONS, "*M2M100Decoder": _POSITIONS, "*ASTModel": _HEADS,
        "*LlamaAttention": _POSITIONS, "*Rwkv*Attention": _NO_LAYER, "*RwkvFeedForward": _NO_LAYER,
        **{f"modeling_*.{name}Attention": _POSITIONS for name in (
            "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3", "Phi", "Phi3", "StableLm", "Cohere", "Olmo",
            "Olmo2", "Granite", "Starcoder2", "Persimmon", "Nemotron", "SmolLM3", "GPTNeoX", "ModernBert", "GPTJ",
            "CodeGen", "Falcon", "DINOv3ViT")},
        "*RoFormerSelfAttention": _POSITIONS, "*FNetBasicOutput": "no layer in the branch: a Fourier transform",
    },
    "pytorchcv": {
        "diaresnet.DIALSTMCell": "a recurrent cell", "centernet.CenterNetHeatmapMaxDet": _BOXES,
        "cbamresnet.ChannelGate": "one layer on two poolings", "dpn.GlobalAvgMaxPool2D": _NO_LAYER,
    },
    "x_transformers": {"x_transformers.Attention": _POSITIONS}, "pretrainedmodels": {"dpn.DPN": _NO_LAYER},
    "segmentation_models_pytorch": {"modules.SCSEModule": "two gates of one value, no layer in a branch"},
    "vit_pytorch": {"cross_vit.CrossViT": _HEADS, "parallel_vit.Parallel": "branches of one block"},
    "diffusers": {"embeddings.*": _POSITIONS},
    "conformer": {"conformer.Attention": _POSITIONS},
}  # fmt: skip

EITHER: dict[str, str] = {
    "torchvision": "feature_pyramid_network.* lraspp.LRASPPHead",
    "timm": """bottleneck_attn.BottleneckAttn halo_attn.HaloAttn lambda_layer.LambdaLayer coat.FactorAttn*
        efficientvim.EfficientViMBlock efficientvim.HSMSSD efficientvit_msra.CascadedGroupAttention
        efficientformer_v2.Attention* efficientformer_v2.LocalGlobalQuery lcnetv2.RepDepthwiseSeparable
        mvitv2.MultiScaleAttention repghost.RepGhostModule fastvit.RepMixer focalnet.FocalModulation
        ghostnet.GhostModuleV3 ghostnet.GhostBottleneckV3 hrnet.* res2net.Bottle2neck dla.DlaBottle2neck tnt.Block
        edgenext.SplitTransposeBlock swiftformer.EfficientAdditiveAttention""",
    "transformers": """*FeatureFusionLayer *SelectiveFeatureFusion *FocalNetModulation *MambaMixer *Mamba2Mixer
        *NystromformerSelfAttention *EfficientAdditiveAttention *DetrDecoderLayer""",
    "pytorchcv": """*.FeatureFusion *.PyramidPoolingMainBranch lednet.APN fpenet.FPEBlock fpenet.MEUBlock hrnet.*
        scnet.ScConv octresnet.OctConv espnetv2.HierarchicalConcurrent espnetv2.DownsampleBlock""",
    "segmentation_models_pytorch": "decoder.FPN* decoder.PABBlock decoder.MFABBlock decoder.FPABlock decoder.GAUBlock",
    "monai": "attentionunet.AttentionBlock",
    "vit_pytorch": "*InteractiveWindowedSelfAttention cait.Transformer xcit.Transformer",
    "super_image": "modeling_awsrn.AwsrnModel modeling_awsrn.AWMS",
    "torchaudio": "conv_tasnet.MaskGenerator _hdemucs.HDemucs _hdemucs._HEncLayer",
}


@dataclass
class Judgement:
    """What a model's additions are.

    Attributes:
        blocks: for each module whose forward adds, how many blocks it makes.
        either: the same for additions that may be counted or not.
        unjudged: classes not listed here.
        source: where the number comes from, in words.
    """

    blocks: Counter[str] = field(default_factory=Counter)
    either: Counter[str] = field(default_factory=Counter)
    unjudged: set[str] = field(default_factory=set)
    source: str = ""

    @property
    def expected(self) -> int:
        """The number of blocks."""
        return sum(self.blocks.values())

    def match(self, found: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
        """The expected blocks that are missing, and the owners of extra ones.

        Args:
            found: of each block that was found, the module whose forward makes its addition, and the module that holds
                it whole. The first is that of the expectation, except where a module is kept closed or the addition is
                made by a separate module; then it is inside the second.
        """
        expected, either, left = self.blocks.copy(), self.either.copy(), Counter[str]()
        for adder, owner in found:
            if expected[adder] > 0:
                expected[adder] -= 1
            elif either[adder] > 0:
                either[adder] -= 1
            else:
                left[owner] += 1
        same = expected & left
        expected, left = expected - same, left - same
        for pool, depth in ((expected, 1), (either, 99), (expected, 99)):
            for owner in sorted(left.elements(), key=len, reverse=True):
                inside = [path for path in pool if pool[path] > 0 and _inside(path, owner, depth)]
                if inside:
                    pool[min(inside, key=len)] -= 1
                    left[owner] -= 1
        return sorted((+expected).elements()), sorted((+left).elements())


def _inside(path: str, owner: str, depth: int) -> bool:
    names, prefix = path.split("."), owner.split(".") if owner else []
    return names[: len(prefix)] == prefix and len(names) - len(prefix) <= depth


def judge(found: Iterable[Site]) -> Judgement:
    """The blocks that a model should have, from the modules that add."""
    judgement = Judgement()
    by_class: dict[str, Counter[int]] = {}
    for site in found:
        known = _sums(site)
        if known is not None:
            judgement.blocks[site.path] += known
            if _in(EITHER, site):  # some of its terms may count by themselves, or do not depend on the input
                judgement.either[site.path] += max(site.additions - known, 3 * site.calls)
        elif _listed(site, NONE.get(site.package, {})):
            continue
        elif _in(EITHER, site):
            judgement.either[site.path] += site.additions
        elif _in(BLOCKS, site):
            judgement.blocks[site.path] += site.additions
        else:
            judgement.unjudged.add(f"{site.package}: {site.kind}")
        if judgement.blocks[site.path]:
            by_class.setdefault(type(site.module).__name__, Counter())[judgement.blocks[site.path]] += 1
    judgement.blocks += Counter()  # without zeros
    judgement.source = ", ".join(_counted(name, numbers) for name, numbers in by_class.items())
    return judgement


def _counted(name: str, numbers: Counter[int]) -> str:
    return " and ".join(f"{count} {name}{'' if each == 1 else f' x {each}'}" for each, count in sorted(numbers.items()))


def _sums(site: Site) -> int | None:
    for pattern, number in SUMS.get(site.package, {}).items():
        if fnmatchcase(site.kind, pattern):
            if number is None:
                return site.additions
            return site.calls * (number if isinstance(number, int) else number(site.module))
    return None


def _in(table: dict[str, str], site: Site) -> bool:
    return _listed(site, table.get(site.package, "").split())


def _listed(site: Site, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(site.kind, pattern) for pattern in patterns)
