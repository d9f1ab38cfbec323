/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Registers of Intel's Gigabit controllers, by the names of their data sheets: 8254x Software Developer's Manual (13),
 * 82574 (10) and 82576 (8) data sheets. What only one of them has says so. Offsets into BAR 0.
 */
#ifndef DEVICE_INTEL_INTEL_REGISTERS_H
#define DEVICE_INTEL_INTEL_REGISTERS_H

#define INTEL_BAR_SIZE 0x20000U
#define INTEL_PAGE     0x1000U

/* ---- general ---- */
#define CTRL			 0x0000U
#define CTRL_GIO_MASTER_DISABLE	 (1U << 2)
#define CTRL_SLU		 (1U << 6)
#define CTRL_RST		 (1U << 26)
#define CTRL_VME		 (1U << 30)
#define CTRL_PHY_RST		 (1U << 31)
#define CTRL_DUP		 0x0004U /* 8254x: the same register */
#define STATUS			 0x0008U
#define STATUS_FD		 (1U << 0)
#define STATUS_LU		 (1U << 1)
#define STATUS_SPEED_1000	 (2U << 6)
#define STATUS_PHYRA		 (1U << 10)
#define STATUS_GIO_MASTER_ENABLE (1U << 19)
#define EECD			 0x0010U
#define EERD			 0x0014U
#define CTRL_EXT		 0x0018U
#define CTRL_EXT_EE_RST		 (1U << 13)
#define CTRL_EXT_EIAME		 (1U << 24) /* 82574 */
#define CTRL_EXT_IAME		 (1U << 27) /* 82574 */
#define FLA			 0x001cU
#define MDIC			 0x0020U
#define SCTL			 0x0024U
#define FCAL			 0x0028U
#define FCAH			 0x002cU
#define FCT			 0x0030U
#define CONNSW			 0x0034U
#define VET			 0x0038U
#define VET_DEFAULT		 0x8100U
#define FCTTV			 0x0170U
#define TXCW			 0x0178U
#define RXCW			 0x0180U
#define LEDCTL			 0x0e00U
#define EXTCNF_CTRL		 0x0f00U
#define PHY_CTRL		 0x0f10U

/* ---- interrupts ---- */
#define ICR			    0x00c0U
#define ICR_TXDW		    (1U << 0)
#define ICR_TXQE		    (1U << 1)
#define ICR_LSC			    (1U << 2)
#define ICR_RXO			    (1U << 6)
#define ICR_RXT0		    (1U << 7)  /* 82576: RXDW */
#define ICR_RXQ0		    (1U << 20) /* 82574, and RXQ1 */
#define ICR_TXQ0		    (1U << 22) /* 82574, and TXQ1 */
#define ICR_OTHER		    (1U << 24) /* 82574 */
#define ICR_INT_ASSERTED	    (1U << 31)
#define ITR			    0x00c4U
#define ICS			    0x00c8U
#define IMS			    0x00d0U
#define IMC			    0x00d8U
#define EIAC_82574		    0x00dcU
#define IAM			    0x00e0U
#define IVAR_82574		    0x00e4U
#define IVAR_82574_EVERY_WRITE_BACK (1U << 31)
#define EITR_82574		    0x00e8U /* 5 of them */
#define GPIE			    0x1514U /* 82576 from here on */
#define GPIE_NSICR		    (1U << 0)
#define GPIE_MULTIPLE_MSIX	    (1U << 4)
#define GPIE_EIAME		    (1U << 30)
#define EICS			    0x1520U
#define EIMS			    0x1524U
#define EIMC			    0x1528U
#define EIAC			    0x152cU
#define EIAM			    0x1530U
#define EICR			    0x1580U
#define EITR			    0x1680U
#define IVAR			    0x1700U
#define IVAR_MISC		    0x1740U
#define IVAR_VALID		    (1U << 7)

/* ---- receive ---- */
#define RCTL		 0x0100U
#define RCTL_EN		 (1U << 1)
#define RCTL_UPE	 (1U << 3)
#define RCTL_MPE	 (1U << 4)
#define RCTL_LPE	 (1U << 5)
#define RCTL_LBM	 (3U << 6)
#define RCTL_DTYP_SHIFT	 10
#define RCTL_MO_SHIFT	 12
#define RCTL_BAM	 (1U << 15)
#define RCTL_BSIZE_SHIFT 16
#define RCTL_VFE	 (1U << 18)
#define RCTL_BSEX	 (1U << 25)
#define RCTL_SECRC	 (1U << 26)
#define FCRTL		 0x2160U
#define FCRTH		 0x2168U
#define PSRCTL		 0x2170U /* 82574 */
#define RXCSUM		 0x5000U
#define RXCSUM_IPOFL	 (1U << 8)
#define RXCSUM_TUOFL	 (1U << 9)
#define RXCSUM_PCSD	 (1U << 13)
#define RLPML		 0x5004U /* 82576 */
#define RFCTL		 0x5008U
#define RFCTL_EXSTEN	 (1U << 15)
#define MTA		 0x5200U
#define RAL0		 0x5400U /* pairs: RAL, RAH */
#define RAL16		 0x54e0U /* 82576 */
#define RAH_AV		 (1U << 31)
#define VFTA		 0x5600U
#define MRQC		 0x5818U
#define RETA		 0x5c00U
#define RSSRK		 0x5c80U

/* Of a ring, from its base: queue n of 82576 and 82574 (n < 4) at + 0x100 * n, others of 82576 at + 0x40 * n. */
#define RING_RECEIVE		  0x2800U
#define RING_RECEIVE_HIGH	  0xc000U
#define RING_TRANSMIT		  0x3800U
#define RING_TRANSMIT_HIGH	  0xe000U
#define RING_BASE_LOW		  0x00U
#define RING_BASE_HIGH		  0x04U
#define RING_LENGTH		  0x08U
#define RING_SRRCTL		  0x0cU /* 82576, receive */
#define SRRCTL_BSIZEHEADER	  0x3f00U
#define SRRCTL_DESCTYPE_SHIFT	  25
#define RING_HEAD		  0x10U
#define RING_TAIL		  0x18U
#define RING_CONTROL		  0x28U	     /* RXDCTL, TXDCTL */
#define RING_CONTROL_ENABLE	  (1U << 25) /* 82576 */
#define RING_HEAD_WRITE_BACK_LOW  0x38U	     /* 82576, transmit: TDWBAL */
#define RING_HEAD_WRITE_BACK_HIGH 0x3cU
#define RDTR			  0x2820U /* not 82576; units of 1.024 us, as RADV, TIDV and TADV */
#define RADV			  0x282cU
#define TIDV			  0x3820U
#define TADV			  0x382cU

/* ---- transmit ---- */
#define TCTL	 0x0400U
#define TCTL_EN	 (1U << 1)
#define TCTL_EXT 0x0404U
#define TIPG	 0x0410U
#define AIT	 0x0458U

/* ---- page 1: packet buffers, management ---- */
#define PBA		  0x1000U
#define EEMNGCTL	  0x1010U
#define EEMNGCTL_CFG_DONE (1U << 18) /* of port 0 */

/* ---- statistics: clear on read ---- */
#define STATISTICS     0x4000U
#define STATISTICS_END 0x4200U
#define MPC	       0x4010U
#define PRC64	       0x405cU
#define GPRC	       0x4074U
#define BPRC	       0x4078U
#define MPRC	       0x407cU
#define GPTC	       0x4080U
#define GORCL	       0x4088U
#define GORCH	       0x408cU
#define GOTCL	       0x4090U
#define GOTCH	       0x4094U
#define RNBC	       0x40a0U
#define ROC	       0x40acU
#define TORL	       0x40c0U
#define TORH	       0x40c4U
#define TOTL	       0x40c8U
#define TOTH	       0x40ccU
#define TPR	       0x40d0U
#define TPT	       0x40d4U
#define PTC64	       0x40d8U
#define MPTC	       0x40f0U
#define BPTC	       0x40f4U
#define TSCTC	       0x40f8U
#define IAC	       0x4100U

/* ---- wake-up, management, semaphores ---- */
#define WUC	   0x5800U
#define MANC	   0x5820U
#define FACTPS	   0x5b30U
#define GCR	   0x5b00U
#define SWSM	   0x5b50U
#define SWSM_SMBI  (1U << 0)
#define FWSM	   0x5b54U
#define SWSM2	   0x5b58U /* 82574 */
#define SW_FW_SYNC 0x5b5cU
#define SYSTIML	   0xb600U /* 82576 */
#define SYSTIMH	   0xb604U
#define TIMINCA	   0xb608U

/* ---- transmit descriptors: the third and fourth word ---- */
#define TXD_LENGTH_EXTENDED    0xfffffU
#define TXD_LENGTH	       0xffffU
#define TXD_DTYP_SHIFT	       20
#define TXD_EOP		       (1U << 24)
#define TXD_LEGACY_IC	       (1U << 26)
#define TXD_TSE		       (1U << 26) /* extended: context and data */
#define TXD_RS		       (1U << 27)
#define TXD_DEXT	       (1U << 29)
#define TXD_VLE		       (1U << 30)
#define TXD_IDE		       (1U << 31) /* legacy and extended */
#define TXD_ADVANCED_TSE       (1U << 31)
#define TXD_DD		       (1U << 0)
#define TXD_CONTEXT_TCP	       (1U << 24) /* extended TUCMD */
#define TXD_CONTEXT_IPV4       (1U << 25)
#define TXD_ADVANCED_IPV4      (1U << 10) /* advanced TUCMD */
#define TXD_ADVANCED_L4T_SHIFT 11
#define TXD_IXSM	       (1U << 8) /* POPTS */
#define TXD_TXSM	       (1U << 9)

/* ---- receive descriptors: status and errors ---- */
#define RXD_DD		 (1U << 0)
#define RXD_EOP		 (1U << 1)
#define RXD_IXSM	 (1U << 2)
#define RXD_VP		 (1U << 3)
#define RXD_UDPCS	 (1U << 4)
#define RXD_TCPCS	 (1U << 5)
#define RXD_IPCS	 (1U << 6)
#define RXD_PIF		 (1U << 7)
#define RXD_LEGACY_IPE	 (1U << 14) /* of status and errors as one half word */
#define RXD_EXTENDED_IPE (1U << 30)

#endif
